"""Training and decoding at 27 million parameters, against the published implementation on the same kind of machine.

    python -m benchmarks.reference_27m

Its figures (jitted JAX, float32, one pinned core of a 2-core machine, compilation excluded, medians) were taken once;
absolute times differ from machine to machine, so that the speedups are orders of magnitude.
"""

import torch
from torch import Tensor

from benchmarks.report import cpu_seconds, say, section
from pixel_llm.core.build import pixel_llm
from pixel_llm.core.decoding import DecodingRule
from pixel_llm.core.eva02 import EVA02
from pixel_llm.core.pixel_llm import PixelLLM
from pixel_llm.core.sam_image_encoder import SamImageEncoder
from pixel_llm.core.t5 import T5
from pixel_llm.losses import smoothed_cross_entropy
from pixel_llm.structures import Prompts

CANVAS, VOCABULARY, CONTEXT_TOKENS, TOKENS = 224, 8000, 8, 40
# (images, prompts per image): the published implementation's seconds for a training step and for decoding, our aims
REFERENCE = {
    (4, 1): (1.12, 1.04, "1.3", "3"),
    (2, 16): (2.40, 6.17, "1.3", ""),
    (1, 100): (7.35, 20.3, "1.3", "10"),
}

TEXT = f"""A PixelLLM of 27.4 million parameters ({CANVAS} pixels, {CONTEXT_TOKENS} prompt tokens, captions of
{TOKENS} tokens, random weights, no dropout). Training is a forward and a backward pass: with gradients for all
parameters, as the published implementation was timed, and as PixelLLM trains (SAM frozen, T5 by LoRA). Decoding is
greedy, encoding of the images included; the published implementation has no cache and runs a second pass for the
locations. Its seconds were taken once on another machine of this kind (jitted, float32, one core)."""
HEADER = ["work", "images × prompts", "ours, s", "published, s", "times faster", "aim"]


def build() -> PixelLLM:
    """The model `reference-27m`, with random weights."""
    torch.manual_seed(0)
    return pixel_llm(
        SamImageEncoder(
            width=256, depth=6, heads=4, global_blocks=(2, 5), image_size=CANVAS, window=7, output_channels=256
        ),
        EVA02(width=256, depth=6, heads=4),
        T5(
            width=256, layers=4, heads=4, head_width=64, feed_forward=512, vocabulary_size=VOCABULARY,
            visual_width=256, dropout=0.0, lora_rank=3, lora_alpha=6.0, lora_sites="all_attention",
        ),
        extractor_width=256,
        prompt_padding_tokens=3,
        dense_output=True,
        location_step="input",
    )  # fmt: skip


def inputs(images: int, prompts: int) -> tuple[Tensor, Tensor, Prompts, Tensor]:
    """Random canvases, their sizes, prompts and captions."""
    generator = torch.Generator().manual_seed(0)
    count = images * prompts
    corners = torch.rand(count, 2, 2, generator=generator).sort(1).values.flatten(1)
    context = torch.randint(3, VOCABULARY, (count, CONTEXT_TOKENS), generator=generator)
    tokens = torch.randint(3, VOCABULARY, (count, TOKENS), generator=generator)
    tokens[:, 0] = 0
    return (
        torch.randint(0, 256, (images, 3, CANVAS, CANVAS), generator=generator, dtype=torch.uint8),
        torch.full((images, 2), CANVAS),
        Prompts(torch.arange(images).repeat_interleave(prompts), corners, context),
        tokens,
    )


def train(model: PixelLLM, images: Tensor, sizes: Tensor, prompts: Prompts, tokens: Tensor) -> None:
    model.zero_grad()
    outputs = model(model.encode_images(images, sizes), prompts, tokens)
    words = smoothed_cross_entropy(outputs.logits[:, :-1], tokens[:, 1:], 0.1).mean()
    (words + outputs.locations.abs().mean()).backward()


@torch.no_grad()
def write(model: PixelLLM, images: Tensor, sizes: Tensor, prompts: Prompts, tokens: Tensor) -> None:
    generation = model.generate(model.encode_images(images, sizes), prompts, DecodingRule(max_tokens=TOKENS))
    assert generation.tokens.shape == tokens.shape, "captions ended early"


def train_everything(model: PixelLLM) -> None:
    model.requires_grad_(True)
    model.sam_encoder.frozen = False
    model.train()


def never_end(model: PixelLLM) -> None:
    """Give </s> the logit 0: among thousands of random ones it is never the largest."""
    lm = model.language_model
    assert isinstance(lm, T5)
    with torch.no_grad():
        lm.model.lm_head.weight[lm.eos_id] = 0


def main() -> None:
    torch.set_num_threads(1)
    as_configured, everything, writer = build().train(), build(), build().eval()
    train_everything(everything)
    never_end(writer)
    works = (("training step, all parameters", train, everything), ("training step, as trained", train, as_configured))
    rows = []
    for name, work, model in (*works, ("greedy decoding with locations", write, writer)):
        for shape, (training, decoding, training_aim, decoding_aim) in REFERENCE.items():
            batch = inputs(*shape)
            seconds = cpu_seconds(lambda: work(model, *batch))  # noqa: B023  # called at once
            published, aim = (training, training_aim) if work is train else (decoding, decoding_aim)
            row = (name, "{} × {}".format(*shape), f"{seconds:.2f}", published, f"{published / seconds:.1f}", aim)
            say(f"   {name} {row[1]}: {row[2]} s, {row[4]} times")
            rows.append(row)
    print(section("Against the published implementation", TEXT, HEADER, rows))


if __name__ == "__main__":
    main()
