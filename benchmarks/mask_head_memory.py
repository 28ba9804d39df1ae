"""Memory of the single transformer's mask head by the stride of its masks: measured, and reckoned from its shapes.

    python -m benchmarks.mask_head_memory                              # 1024 pixels
    python -m benchmarks.mask_head_memory --pixels 256 --model 0.5B    # a glance

Each measurement is a process of its own. With a GPU they run there, in bfloat16.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.report import say, section
from pixel_llm.pixel_sail.mask_head import MaskHead

WIDTHS, EMBEDDING, PATCH, MASKS = {"0.5B": 896, "3B": 2048}, 512, 16, 16
STRIDES, WORK = (16, 4, 2), ("masks", "training")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPE = torch.bfloat16 if DEVICE.type == "cuda" else torch.float32

TEXT = """What the mask head takes beyond its weights and its input for one image of {pixels} x {pixels} pixels with
{masks} masks, in {dtype}: without gradients, and in a training step (forward and backward). It has the widths of the
paper's models, patches of {patch} pixels and {embedding} channels in which masks are looked for; a stride of {patch} is
the plain baseline, 4 the paper's, 2 the published code's. Reckoned: in training five maps of all channels after each
doubling, the two layers behind them and the masks are held for the backward pass, which needs two more maps at its
begin, and by its end the weights' gradients, which are added on top; without gradients three maps are there at once.
Measured is the peak of the process, on a GPU of the allocated tensors, over what was there before."""
HEADER = [
    "model", "stride", "mask grid", "one map, GB", "masks: measured, GB", "reckoned, GB",
    "training: measured, GB", "reckoned, GB",
]  # fmt: skip


def reckoned(head: MaskHead, width: int, stride: int, pixels: int, work: str) -> dict[str, float]:
    """GB of one map of all channels at the stride of masks, and of the peak."""
    patches, finest = (pixels // PATCH) ** 2, (pixels // stride) ** 2
    channels = min(width, 1024)
    masks, features = MASKS * finest, EMBEDDING * finest
    if work == "masks":
        values = max(3 * channels * finest, 2 * channels * finest + features, features + 2 * masks)
    else:
        doubled = sum(patches * 4**doubling for doubling in range(1, len(head.upsampling) + 1))
        narrowed = (width + channels) * patches if width > channels else 0
        held = narrowed + 5 * channels * doubled + channels * finest + features + masks
        values = held + 2 * channels * finest + sum(weight.numel() for weight in head.parameters())
    size = torch.finfo(DTYPE).bits // 8
    return {"map": channels * finest * size / 1e9, "reckoned": values * size / 1e9}


def measure(model: str, stride: int, pixels: int, work: str) -> dict[str, float]:
    """In this process: one model, one stride, one kind of work."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    width, side = WIDTHS[model], pixels // PATCH
    head = MaskHead(width=width, patch=PATCH, stride=stride, embedding=EMBEDDING).to(DEVICE, DTYPE)
    states = torch.randn(1, side * side, width, device=DEVICE, dtype=DTYPE, requires_grad=work == "training")
    hidden = torch.randn(MASKS, width, device=DEVICE, dtype=DTYPE)
    image_index = torch.zeros(MASKS, dtype=torch.long)
    small = torch.randn(1, 1, width, device=DEVICE, dtype=DTYPE)
    # what libraries set up at their first call is not the head's
    head(head.features(small, (1, 1)), hidden, image_index).sum().backward()
    head.zero_grad()
    before = start_of_peak()
    with torch.set_grad_enabled(work == "training"):
        masks = head(head.features(states, (side, side)), hidden, image_index)
    if work == "training":
        masks.backward(torch.ones_like(masks))
    return {**reckoned(head, width, stride, pixels, work), "measured": (peak() - before) / 1e9}


def start_of_peak() -> int:
    """Forget the peak so far; bytes that are there now."""
    if DEVICE.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    Path("/proc/self/clear_refs").write_text("5")
    return _of_process("VmRSS")


def peak() -> int:
    return torch.cuda.max_memory_allocated() if DEVICE.type == "cuda" else _of_process("VmHWM")


def _of_process(entry: str) -> int:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[entry].split()[0]) * 1024


def in_own_process(model: str, stride: int, pixels: int, work: str) -> dict[str, float]:
    options = ["--model", model, "--stride", str(stride), "--pixels", str(pixels), "--work", work]
    command = [sys.executable, "-m", "benchmarks.mask_head_memory", *options]
    result = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    say(f"   {model}, stride {stride}, {work}: {result['measured']:.3f} GB, reckoned {result['reckoned']:.3f} GB")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pixels", type=int, default=1024, help="side of the image")
    parser.add_argument("--model", choices=WIDTHS, help="this one only")
    parser.add_argument("--stride", type=int, choices=STRIDES, help="with --model: print one measurement")
    parser.add_argument("--work", choices=WORK, default="training")
    options = parser.parse_args()
    if options.model and options.stride:
        print(json.dumps(measure(options.model, options.stride, options.pixels, options.work)))
        return
    rows = []
    for model in [options.model] if options.model else WIDTHS:
        for stride in STRIDES:
            found = [in_own_process(model, stride, options.pixels, work) for work in WORK]
            figures = [f"{one[name]:.2f}" for one in found for name in ("measured", "reckoned")]
            side = options.pixels // stride
            rows.append([model, stride, f"{side} x {side}", f"{found[0]['map']:.3f}", *figures])
    shown = {"masks": MASKS, "patch": PATCH, "embedding": EMBEDDING, "dtype": str(DTYPE).removeprefix("torch.")}
    print(section("Memory of the mask head", TEXT.format(pixels=options.pixels, **shown), HEADER, rows))


if __name__ == "__main__":
    main()
