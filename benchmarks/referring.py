"""Expressions per second in evaluation: those of an image in one batch against one by one.

    python -m benchmarks.referring --expressions 16
"""

import argparse
from collections.abc import Sequence

import torch
from torch import nn

from benchmarks.report import cpu_seconds, say, section
from pixel_llm.core.build import pixel_llm
from pixel_llm.core.eva02 import EVA02
from pixel_llm.core.pixel_llm import PixelLLM
from pixel_llm.core.sam_image_encoder import SamImageEncoder
from pixel_llm.core.t5 import T5
from pixel_llm.run_lengths import mask_overlap
from pixel_llm.structures import Batch, Prompts, ReferringPrediction, Targets
from pixel_llm.tasks.optimizer import AdamWSchedule
from pixel_llm.tasks.referring_localization import ReferringLocalization

CANVAS, SHOWN, ORIGINAL, VOCABULARY, TOKENS, CONTEXT_TOKENS = 384, (288, 384), (480, 640), 8000, 10, 11

TEXT = """Boxes, and masks at the size of the picture ({size}), of {expressions} expressions of {tokens} tokens about
one picture: all in one batch, as `lightning test` asks them, and each in a batch of its own, for which the picture is
encoded again. The model has the paper's shapes at a quarter of their widths and depths: {canvas} pixels, {millions:.0f}
million parameters without word embeddings, {encoders:.0f} in the image encoders, random weights. With a context prompt,
as published, T5's encoder reads every expression as well. The answers of the two ways differ by so many pixels at the
corners of boxes, and in such a share of the masks' pixels."""
HEADER = [
    "context prompt", "masks", "one by one, expressions/s", "in one batch, expressions/s", "times faster", "aim",
    "boxes differ, pixels", "masks differ",
]  # fmt: skip
AIM = "5"


def build() -> PixelLLM:
    """The paper's model (SAM ViT-H, EVA-02-L, T5-XL) at a quarter of its widths and depths, with random weights."""
    torch.manual_seed(0)
    return pixel_llm(
        SamImageEncoder(
            width=320, depth=8, heads=4, global_blocks=(1, 3, 5, 7), image_size=1024, output_channels=64
        ),
        EVA02(width=256, depth=6, heads=4),
        T5(
            width=512, layers=6, heads=8, head_width=64, feed_forward=1280, vocabulary_size=VOCABULARY,
            visual_width=256,
        ),
        extractor_width=128,
        extractor_mlp=512,
        location_hidden=128,
        mask_adapter="gated",
    ).eval()  # fmt: skip


def ask(model: PixelLLM, expressions: int, context: bool) -> Batch:
    """One random picture with random expressions."""
    tokens = torch.randint(3, VOCABULARY, (expressions, TOKENS))
    tokens[:, 0], tokens[:, -1] = model.language_model.bos_id, model.language_model.eos_id
    return Batch(
        keys=["picture"],
        positions=[0],
        images=torch.randint(0, 256, (1, 3, CANVAS, CANVAS), dtype=torch.uint8),
        sizes=torch.tensor([SHOWN]),
        original_sizes=torch.tensor([ORIGINAL]),
        prompts=Prompts(
            torch.zeros(expressions, dtype=torch.long),
            torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(expressions, 4),
            torch.randint(3, VOCABULARY, (expressions, CONTEXT_TOKENS)) if context else None,
        ),
        targets=Targets(tokens, torch.zeros(*tokens.shape, 2, 2), torch.zeros(tokens.shape, dtype=torch.bool)),
        references=[None] * expressions,
    )


def single(batch: Batch, row: int) -> Batch:
    """The same picture with one of its expressions."""
    only = slice(row, row + 1)
    prompts, targets = batch.prompts, batch.targets
    assert targets is not None
    context = None if prompts.context is None else prompts.context[only]
    return Batch(
        keys=batch.keys,
        positions=batch.positions,
        images=batch.images,
        sizes=batch.sizes,
        original_sizes=batch.original_sizes,
        prompts=Prompts(prompts.image_index[only], prompts.boxes[only], context),
        targets=Targets(targets.tokens[only], targets.locations[only], targets.located[only]),
        references=batch.references[only],
    )


def compare(model: PixelLLM, expressions: int, context: bool, masks: bool) -> tuple[object, ...]:
    task = ReferringLocalization(model, AdamWSchedule(), segment=masks).eval()
    batch = ask(model, expressions, context)
    singles = [single(batch, row) for row in range(expressions)]

    answers: list[list[ReferringPrediction]] = [[], []]

    def one_by_one() -> None:
        answers[0] = [answer for one in singles for answer in task.predict_step(one, 0)]

    def together() -> None:
        answers[1] = task.predict_step(batch, 0)

    slow, fast = (expressions / cpu_seconds(way, repeats) for way, repeats in ((one_by_one, 1), (together, 3)))
    say(f"   context {context}, masks {masks}: {slow:.2f} and {fast:.2f} expressions per second")
    conditions = ["yes" if condition else "no" for condition in (context, masks)]
    return (*conditions, f"{slow:.2f}", f"{fast:.1f}", f"{fast / slow:.1f}", AIM, *difference(*answers))


def difference(some: Sequence[ReferringPrediction], others: Sequence[ReferringPrediction]) -> tuple[str, str]:
    """The largest of the corners of boxes, and the share of the masks' pixels."""
    pairs = list(zip(some, others, strict=True))
    corners = max(abs(a - b) for one, other in pairs for a, b in zip(one.box, other.box, strict=True))
    if some[0].mask is None:
        return f"{corners:.0e}", ""
    differing = total = 0
    for one, other in pairs:
        assert one.mask is not None
        assert other.mask is not None
        both, either = mask_overlap(one.mask, other.mask)
        differing, total = differing + either - both, total + ORIGINAL[0] * ORIGINAL[1]
    return f"{corners:.0e}", f"{differing / total:.0e}"


def millions(*modules: nn.Module) -> float:
    return sum(parameter.numel() for module in modules for parameter in module.parameters()) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--expressions", type=int, default=16, help="about the picture")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = build()
    rows = [compare(model, options.expressions, context, masks) for context in (False, True) for masks in (False, True)]
    words = 2 * VOCABULARY * model.language_model.width / 1e6
    text = TEXT.format(
        size="{} x {}".format(*ORIGINAL),
        expressions=options.expressions,
        tokens=TOKENS,
        canvas=CANVAS,
        millions=millions(model) - words,
        encoders=millions(model.sam_encoder, model.tuned_encoder),
    )
    print(section("Referring expressions", text, HEADER, rows))


if __name__ == "__main__":
    main()
