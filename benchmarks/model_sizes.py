"""Time and memory of a training step and of decoding, by model size.

    python -m benchmarks.model_sizes                        # all sizes that fit the machine
    python -m benchmarks.model_sizes --size base --work train

Each measurement is a process of its own, so that its peak of memory is its own. With a GPU they run there, under
bfloat16 autocast, and the paper's sizes are measured too.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jsonargparse import ArgumentParser
from torch import Tensor

from benchmarks import reference_27m
from benchmarks.report import say, section
from pixel_llm.core.build import eva02_large, pixel_llm, sam_image_encoder, t5
from pixel_llm.core.conv_encoder import ConvEncoder
from pixel_llm.core.decoding import DecodingRule
from pixel_llm.core.pixel_llm import PixelLLM
from pixel_llm.core.t5 import T5
from pixel_llm.losses import smoothed_cross_entropy
from pixel_llm.structures import Prompts
from pixel_llm.tasks.optimizer import AdamWSchedule

CONTEXT_TOKENS, TOKENS = 8, 40
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

TEXT = f"""A training step is a forward and a backward pass with a step of AdamW on what PixelLLM trains; decoding is
greedy with locations, images included; one prompt of {CONTEXT_TOKENS} tokens for each image, captions of {TOKENS}
tokens, random weights. Tokens are those of the captions. Memory is the peak of the whole process on a CPU (an idle
one with these packages has about 0.9 GB) and of the allocated tensors on a GPU. `toy` is `configs/model/toy.yaml`,
`reference-27m` the model of the first section, `base` has SAM ViT-B, a small convolutional second encoder and
T5-base, `paper` SAM ViT-H, EVA-02-L and T5-XL."""
HEADER = [
    "size", "parameters (trained), M", "pixels", "images",
    "train, s", "tokens/s", "memory, GB", "decode, s", "tokens/s", "memory, GB",
]  # fmt: skip


@dataclass(frozen=True)
class Size:
    """pixels: side of the canvas.  images: in a step."""

    build: Callable[[], PixelLLM]
    pixels: int
    images: int


def toy() -> PixelLLM:
    parser = ArgumentParser()
    parser.add_subclass_arguments(PixelLLM, "core")
    file = Path(__file__).parent.parent / "configs" / "model" / "toy.yaml"
    return parser.instantiate(parser.parse_args([f"--core={file}"])).core


def base() -> PixelLLM:
    tuned = ConvEncoder(width=256, stride=16, blocks=4, heads=8)
    return pixel_llm(sam_image_encoder("vit_b"), tuned, t5("base", visual_width=768))


def paper() -> PixelLLM:
    return pixel_llm(sam_image_encoder("vit_h"), eva02_large(), t5("xl"), prompt_padding_tokens=3)


SIZES = {
    "toy": Size(toy, 96, 16),
    "reference-27m": Size(reference_27m.build, 224, 4),
    "base": Size(base, 384, 2),
    "paper": Size(paper, 384, 8),
}


def inputs(model: PixelLLM, size: Size) -> tuple[Tensor, Tensor, Prompts, Tensor]:
    """Random canvases, their sizes, whole-image prompts and captions."""
    words = model.language_model.vocabulary_size
    tokens = torch.randint(3, words, (size.images, TOKENS), device=DEVICE)
    tokens[:, 0] = model.language_model.bos_id
    prompts = Prompts(
        torch.arange(size.images, device=DEVICE),
        torch.tensor([[0.0, 0.0, 1.0, 1.0]], device=DEVICE).expand(size.images, 4),
        torch.randint(3, words, (size.images, CONTEXT_TOKENS), device=DEVICE),
    )
    images = torch.randint(0, 256, (size.images, 3, size.pixels, size.pixels), dtype=torch.uint8, device=DEVICE)
    return images, torch.full((size.images, 2), size.pixels, device=DEVICE), prompts, tokens


def training(model: PixelLLM, size: Size, sam: Tensor | None = None) -> Callable[[], None]:
    """A training step; sam: what SAM's encoder made of the images before, see `PixelLLM.encode_images`."""
    model.train()
    optimizer, _ = AdamWSchedule().build(model, total_steps=100)
    images, sizes, prompts, tokens = inputs(model, size)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=DEVICE.type == "cuda"):
            outputs = model(model.encode_images(images, sizes, sam), prompts, tokens)
        words = smoothed_cross_entropy(outputs.logits[:, :-1], tokens[:, 1:], 0.1).mean()
        (words + outputs.locations.abs().mean()).backward()
        optimizer.step()

    return step


def decoding(model: PixelLLM, size: Size) -> Callable[[], None]:
    model.eval()
    lm = model.language_model
    assert isinstance(lm, T5)
    with torch.no_grad():
        lm.model.lm_head.weight[lm.eos_id] = 0  # among many random logits 0 is never the largest: no caption ends
    images, sizes, prompts, _ = inputs(model, size)

    @torch.no_grad()
    def write() -> None:
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=DEVICE.type == "cuda"):
            model.generate(model.encode_images(images, sizes), prompts, DecodingRule(max_tokens=TOKENS))

    return write


def seconds_of(function: Callable[[], object], repeats: int) -> float:
    """Of one call, the best of several after one that does not count: CPU time, on a GPU the clock's."""
    clock = time.process_time if DEVICE.type == "cpu" else time.perf_counter
    best = float("inf")
    for turn in range(repeats + 1):
        start = clock()
        function()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        if turn:
            best = min(best, clock() - start)
    return best


def peak_gb() -> float:
    if DEVICE.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def measure(name: str, work: str) -> dict[str, float]:
    """In this process: one size, one kind of work."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    size = SIZES[name]
    with DEVICE:
        model = size.build()
    counts = [sum(p.numel() for p in model.parameters() if p.requires_grad or every) / 1e6 for every in (True, False)]
    function = training(model, size) if work == "train" else decoding(model, size)
    seconds = seconds_of(function, repeats=3)
    tokens = size.images * (TOKENS - 1)
    return {"all": counts[0], "trained": counts[1], "s": seconds, "tokens/s": tokens / seconds, "GB": peak_gb()}


def in_own_process(name: str, work: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.model_sizes", "--size", name, "--work", work]
    result = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    say(f"   {name}, {work}: {result['s']:.3g} s, {result['GB']:.2f} GB")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, help="measure this one only")
    parser.add_argument("--work", choices=("train", "decode"), default="train")
    options = parser.parse_args()
    if options.size:
        print(json.dumps(measure(options.size, options.work)))
        return
    rows = []
    for name, size in SIZES.items():
        if name == "paper" and DEVICE.type == "cpu":
            continue
        train, decode = (in_own_process(name, work) for work in ("train", "decode"))
        figures = [
            text for f in (train, decode) for text in (f"{f['s']:.3g}", f"{f['tokens/s']:,.0f}", f"{f['GB']:.2f}")
        ]
        rows.append((name, f"{train['all']:.1f} ({train['trained']:.1f})", size.pixels, size.images, *figures))
    print(section("By model size", TEXT, HEADER, rows))


if __name__ == "__main__":
    main()
