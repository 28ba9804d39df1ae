"""Captioning all proposals of an image: together with a cache, and one by one without, as the published code does.

    python -m benchmarks.dense_captioning
"""

import resource
from typing import Any

import torch
from torch import Tensor

from benchmarks.reference_27m import CANVAS, TOKENS, build, inputs, never_end
from benchmarks.report import cpu_seconds, say, section
from pixel_llm.core.decoding import DecodingRule
from pixel_llm.core.pixel_llm import PixelLLM
from pixel_llm.core.proposal_head import ProposalHead
from pixel_llm.structures import ImageFeatures, Prompts
from pixel_llm.tasks.region_captions import select, write_captions

PROPOSALS, TIMED, AT_ONCE, MANY = 100, 4, 64, 1600
BUDGET_GB = 1.0

TEXT = f"""The model of `reference-27m` (image of {CANVAS} pixels, captions of {TOKENS} tokens, random weights) and a
proposal head of the paper's size on one image with {PROPOSALS} proposals. Together: {AT_ONCE} proposals at once, with a
cache. One by one: every token of every proposal from the image features anew and without a cache, as the published code
does, timed on {TIMED} proposals and multiplied. Memory is the largest resident size of the process."""
HEADER = ["what", "value", "aim"]


class Words:
    """Stands in for a tokenizer: random weights say nothing that could be read."""

    def decode(self, tokens: list[int]) -> tuple[str, list[Any]]:
        return " ".join(map(str, tokens)), []


@torch.no_grad()
def together(model: PixelLLM, images: Tensor, sizes: Tensor, prompts: Prompts) -> None:
    features = model.encode_images(images, sizes)
    write_captions(model, features, prompts, DecodingRule(TOKENS), Words(), AT_ONCE)


@torch.no_grad()
def one_by_one(model: PixelLLM, features: ImageFeatures, prompts: Prompts) -> None:
    for row in range(TIMED):
        prompt = select(prompts, torch.tensor([row]))
        tokens = torch.full((1, 1), model.language_model.bos_id)
        for _ in range(TOKENS - 2):
            word = model(features, prompt, tokens).logits[:, -1:].argmax(-1)
            tokens = torch.cat([tokens, word], dim=1)


def peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    torch.set_num_threads(1)
    model = build().eval()
    never_end(model)
    head = ProposalHead(512).eval()
    images, sizes, prompts, _ = inputs(1, PROPOSALS)
    features = model.encode_images(images, sizes)
    found = cpu_seconds(lambda: head.detect(head(features)))
    batched = cpu_seconds(lambda: together(model, images, sizes, prompts))
    say(f"   together: {batched:.2f} s, of {PROPOSALS} proposals")
    peaks = [peak_gb()]
    together(model, images, sizes, inputs(1, MANY)[2])
    peaks.append(peak_gb())
    alone = cpu_seconds(lambda: one_by_one(model, features, prompts), repeats=1) * PROPOSALS / TIMED
    rows = [
        ("finding the proposals, s", f"{found:.2f}", ""),
        (f"captioning {PROPOSALS} together, s", f"{batched:.2f}", ""),
        (f"captioning {PROPOSALS} one by one without a cache, s", f"{alone:.1f}", ""),
        ("times faster together", f"{alone / batched:.1f}", "10"),
        (f"peak memory with {PROPOSALS} proposals, GB", f"{peaks[0]:.2f}", ""),
        (f"more with {MANY} proposals, GB", f"{peaks[1] - peaks[0]:.2f}", f"under {BUDGET_GB}, however many"),
    ]
    print(section("Dense captioning", TEXT, HEADER, rows))


if __name__ == "__main__":
    with torch.no_grad():
        main()
