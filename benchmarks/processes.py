"""Images per second of two processes against one.

    python -m benchmarks.processes

The processes train one model by DDP, each on images of its own, as `configs/trainer/ddp.yaml` has them do.
"""

import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.model_sizes import SIZES, Size, inputs
from benchmarks.report import say, section
from pixel_llm.core.pixel_llm import PixelLLM
from pixel_llm.losses import smoothed_cross_entropy
from pixel_llm.structures import Prompts
from pixel_llm.tasks.optimizer import AdamWSchedule

NAMES = ("toy", "reference-27m")
LAYOUTS = ((1, 1), (1, 2), (2, 1))  # processes, threads of each
STEPS = 5

TEXT = f"""The training step of "By model size" by the clock, the best of {STEPS}, on CPU cores that have nothing else
to do: one process on one core and on two, and two processes by DDP (static graph, gradients as views of the buckets,
gloo) with one thread each. Every process has as many images in its step: two make the gradient of twice the batch."""
HEADER = ["size", "processes", "threads of each", "images in a step", "step, s", "images/s", "of one process"]


class Loss(nn.Module):
    """A model and its loss as one module, as DDP wants it."""

    def __init__(self, model: PixelLLM) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, sizes: Tensor, prompts: Prompts, tokens: Tensor) -> Tensor:
        outputs = self.model(self.model.encode_images(images, sizes), prompts, tokens)
        words = smoothed_cross_entropy(outputs.logits[:, :-1], tokens[:, 1:], 0.1).mean()
        return words + outputs.locations.abs().mean()


def best_step(module: nn.Module, model: PixelLLM, size: Size) -> float:
    """Seconds by the clock, from one step's end to the next one's."""
    optimizer, _ = AdamWSchedule().build(model, total_steps=100)
    batch = inputs(model, size)
    best = float("inf")
    for turn in range(STEPS + 2):  # with a static graph the first ones are others
        start = time.perf_counter()
        optimizer.zero_grad()
        module(*batch).backward()
        optimizer.step()
        if turn > 1:
            best = min(best, time.perf_counter() - start)
    return best


def work(rank: int, processes: int, threads: int, name: str, folder: str) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = SIZES[name].build().train()
    module: nn.Module = Loss(model)
    if processes > 1:
        store = f"file://{folder}/store"
        distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=processes)
        module = DistributedDataParallel(module, static_graph=True, gradient_as_bucket_view=True)
    torch.manual_seed(rank)
    seconds = best_step(module, model, SIZES[name])
    if rank == 0:
        Path(folder, "seconds").write_text(str(seconds))
    if processes > 1:
        distributed.destroy_process_group()


def measure(name: str, processes: int, threads: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(work, (processes, threads, name, folder), nprocs=processes)
        seconds = float(Path(folder, "seconds").read_text())
    say(f"   {name}, {processes} processes, {threads} threads: {seconds:.3g} s")
    return seconds


def rows(name: str) -> list[list[object]]:
    made: list[list[object]] = []
    alone = 0.0
    for processes, threads in LAYOUTS:
        seconds = measure(name, processes, threads)
        images = processes * SIZES[name].images
        alone = alone or images / seconds  # of the first layout
        figures = [f"{seconds:.3g}", f"{images / seconds:.3g}", f"{images / seconds / alone:.2f}"]
        made.append([name, processes, threads, images, *figures])
    return made


def main() -> None:
    print(section("Processes", TEXT, HEADER, [row for name in NAMES for row in rows(name)]))


if __name__ == "__main__":
    main()
