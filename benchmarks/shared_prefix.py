"""What one pass over an image for all its questions saves, in answering and in training.

    python -m benchmarks.shared_prefix --patches 1024 --questions 16
"""

import argparse
import math
from collections.abc import Callable
from typing import TypeVar, cast

import torch
from torch import Tensor

from benchmarks.model_sizes import DEVICE, seconds_of
from benchmarks.report import say, section
from pixel_llm.core.decoding import DecodingRule
from pixel_llm.losses import smoothed_cross_entropy
from pixel_llm.pixel_sail.backbone import Past
from pixel_llm.pixel_sail.key_values import KeyValues
from pixel_llm.pixel_sail.patch_embedding import PatchEmbedding
from pixel_llm.pixel_sail.pixel_sail import PixelSail, image_positions
from pixel_llm.pixel_sail.transformer import Transformer
from pixel_llm.special_tokens import SpecialTokens
from pixel_llm.structures import Prompts

PATCH, WORDS, QUESTION, ANSWER = 16, 8000, 12, 12

TEXT = """A transformer of {millions:.0f} million parameters with random weights reads an image of {patches} patches
and {questions} questions of {question} tokens about it. Reading: the states of {answer} tokens of an answer to each,
in one pass over the image and one over all texts, against a pass over image and text for every question. Answering:
the same tokens greedily. Training: a forward and a backward pass on those answers, and on one of them, against one
whose rows hold image and text and whose layers each build the mask anew, as a tensor of floats. The largest
difference of states or gradients is given beside their largest value."""
HEADER = ["work", "shared, s", "apart, s", "times faster", "aim", "max difference", "output scale"]
AIM = 6


class DenseMask(Transformer):
    """The same weights on whole rows; every layer builds its mask from the places of image and text."""

    image: int  # positions that an image takes

    def forward(
        self, embeddings: Tensor, positions: Tensor, attend: Tensor, past: Past | None
    ) -> tuple[Tensor, KeyValues]:
        angles, hidden, keys, values = self.rotary(positions), embeddings, [], []
        for layer in self.layers:
            hidden, key, value = layer(hidden, angles, self.mask(hidden), None)
            keys.append(key)
            values.append(value)
        return self.norm(hidden), KeyValues(keys, values)

    def mask(self, hidden: Tensor) -> Tensor:
        place = torch.arange(hidden.shape[1], device=hidden.device)
        seen = (place <= place[:, None]) | ((place < self.image) & (place[:, None] < self.image))
        mask = torch.zeros(len(hidden), 1, *seen.shape, dtype=hidden.dtype, device=hidden.device)
        return mask.masked_fill(~seen, -math.inf).repeat(1, 1, self.group, 1)


Kind = TypeVar("Kind", bound=Transformer)


def build(kind: type[Kind], words: int) -> Kind:
    return kind(vocabulary_size=words, width=256, layers=4, heads=8, key_value_heads=2, feed_forward=1024)


class Case:
    """Both ways of working on one image with its questions."""

    def __init__(self, patches: int, questions: int) -> None:
        torch.manual_seed(0)
        special = SpecialTokens(WORDS)
        backbone = build(Transformer, special.vocabulary_size)
        self.model = PixelSail(
            backbone=backbone, patch_embedding=PatchEmbedding(256, PATCH), special=special, bos_id=1, eos_id=2, pad_id=0
        ).to(DEVICE)
        with torch.no_grad():
            backbone.embed_tokens.weight[2] = 0  # among many random logits 0 is never the largest: no answer ends
        self.dense = build(DenseMask, special.vocabulary_size).to(DEVICE)
        self.dense.load_state_dict(backbone.state_dict())
        self.dense.image = patches + 2
        self.side = math.isqrt(patches)
        pixels = self.side * PATCH
        self.images = torch.randint(0, 256, (1, 3, pixels, pixels), dtype=torch.uint8, device=DEVICE)
        self.sizes = torch.full((1, 2), pixels, device=DEVICE)
        self.context = torch.randint(3, WORDS, (questions, QUESTION), device=DEVICE)
        self.tokens = torch.randint(3, WORDS, (questions, ANSWER), device=DEVICE)
        self.tokens[:, 0] = 1

    def prompts(self, rows: slice) -> Prompts:
        context = self.context[rows]
        return Prompts(torch.zeros(len(context), dtype=torch.long, device=DEVICE), context[:, :4].float(), context)

    def apart(self, work: Callable[[slice], Tensor]) -> Tensor:
        return torch.cat([work(slice(row, row + 1)) for row in range(len(self.context))])

    @torch.no_grad()
    def read(self, rows: slice) -> Tensor:
        images = self.model.encode_images(self.images, self.sizes)
        return cast(Tensor, self.model(images, self.prompts(rows), self.tokens[rows]).hidden)

    @torch.no_grad()
    def answer(self, rows: slice) -> Tensor:
        images = self.model.encode_images(self.images, self.sizes)
        return self.model.generate(images, self.prompts(rows), DecodingRule(max_tokens=ANSWER)).hidden

    def train(self) -> Tensor:
        """The gradient of the embedding table; so in `train_dense`."""
        images = self.model.encode_images(self.images, self.sizes)
        logits = self.model(images, self.prompts(slice(None)), self.tokens).logits
        loss = smoothed_cross_entropy(logits[:, :-1], self.tokens[:, 1:], 0.1).mean()
        return self.gradient(self.model.backbone, loss)

    def train_dense(self) -> Tensor:
        count, special, dense = len(self.tokens), self.model.special, self.dense
        grid = torch.full((1, 2), self.side, device=DEVICE)
        places, _ = image_positions((self.side, self.side), grid)
        texts = torch.cat([self.context, self.tokens], dim=1)
        further = self.side + 2 + torch.arange(texts.shape[1], device=DEVICE)
        positions = torch.cat([places[0], further[:, None].expand(-1, 3)]).expand(count, -1, -1)
        symbols = [special.image, *[special.patch] * self.side**2, special.image_end]
        embeddings = dense.embed(torch.cat([torch.tensor(symbols, device=DEVICE).expand(count, -1), texts], dim=1))
        pixels = self.model.patch_embedding(self.images, self.sizes).flatten(2).transpose(1, 2)
        pixels = torch.nn.functional.pad(pixels, (0, 0, 1, texts.shape[1] + 1))
        states, _ = dense(embeddings + pixels, positions, texts, None)
        logits = dense.logits(states[:, -ANSWER:-1])
        return self.gradient(dense, smoothed_cross_entropy(logits, self.tokens[:, 1:], 0.1).mean())

    def gradient(self, backbone: torch.nn.Module, loss: Tensor) -> Tensor:
        backbone.zero_grad()
        loss.backward()
        return cast(Tensor, cast(Transformer, backbone).embed_tokens.weight.grad)


def compare(work: str, shared: Callable[[], Tensor], apart: Callable[[], Tensor], repeats: int) -> list[str]:
    made = [shared().clone(), apart().clone()]
    ours, theirs = (seconds_of(way, repeats) for way in (shared, apart))
    say(f"   {work}: {ours:.3f} s against {theirs:.3f} s")
    difference, scale = (made[0] - made[1]).abs().max().item(), made[1].abs().max().item()
    aim = str(AIM) if work.startswith("reading") else ""
    return [work, f"{ours:.3f}", f"{theirs:.3f}", f"{theirs / ours:.1f}", aim, f"{difference:.1e}", f"{scale:.2g}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patches", type=int, default=1024, help="of the image, a square")
    parser.add_argument("--questions", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=2, help="turns of each way")
    options = parser.parse_args()
    torch.set_num_threads(1)
    case, single, every = Case(options.patches, options.questions), Case(options.patches, 1), slice(None)
    rows = [
        compare("reading", lambda: case.read(every), lambda: case.apart(case.read), options.repeats),
        compare("answering", lambda: case.answer(every), lambda: case.apart(case.answer), options.repeats),
        compare("training", case.train, case.train_dense, options.repeats),
        compare("training, one question", single.train, single.train_dense, options.repeats),
    ]
    millions = sum(value.numel() for value in case.model.parameters()) / 1e6
    sizes = {"patches": options.patches, "questions": options.questions, "question": QUESTION, "answer": ANSWER}
    print(section("One image, many questions", TEXT.format(millions=millions, **sizes), HEADER, rows))


if __name__ == "__main__":
    main()
