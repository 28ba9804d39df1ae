"""How a training runs: its speed, memory, losses and gradient, in TensorBoard and as one plain line at a time."""

import resource
import sys
import time
from collections import defaultdict
from datetime import timedelta
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from callbacks.compilation import is_compiled
from pixel_llm.structures import Batch

Bucket = tuple[object, ...]


class Throughput(L.Callback):
    """Logs figures of the last steps, and says them in a line that a log file can hold.

    speed/images_per_second, speed/tokens_per_second (of the captions, padding included), speed/data_wait (in [0, 1]),
    speed/gflops_per_second (see `StepFlops`), speed/memory_gb (the peak so far: of the GPU's tensors, or of the process
    on a CPU), and train/SOURCE/loss where batches are of one source each and the task does not log it by itself.

    every_n_steps: length in batches of the stretch that a figure is averaged over. Figures are of this process; time
    that validation takes is left out, writing a checkpoint slows a stretch but is no wait for data.
    """

    def __init__(self, every_n_steps: int = 50) -> None:
        self.every_n_steps = every_n_steps
        self._flops = StepFlops()
        self._sources: set[str] = set()
        self._logged: set[str] = set()
        self._reset()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._reset()  # a resumed run begins in the middle of an epoch

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._reset()

    def _reset(self) -> None:
        self._since = self._waiting_since = time.perf_counter()
        self._first_step: int | None = None
        self._waited, self._images, self._tokens, self._batches, self._operations, self._skipped = 0.0, 0, 0, 0, 0, 0
        self._losses: dict[str, list[Tensor]] = defaultdict(list)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        self._waited += max(0.0, time.perf_counter() - self._waiting_since)
        if self._first_step is None:
            self._first_step = trainer.global_step
        self._flops.start(pl_module, batch)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self._operations += self._flops.stop(batch)
        self._images += len(batch.keys)
        self._tokens += batch.targets.tokens.numel() if batch.targets is not None else 0
        self._skipped += len(batch.skipped)
        self._batches += 1
        loss = outputs["loss"] * trainer.accumulate_grad_batches  # Lightning has divided it
        self._losses["+".join(sorted(set(batch.sources)))].append(loss)
        self._waiting_since = time.perf_counter()
        if self._batches == self.every_n_steps:
            self._report(trainer, pl_module, self._waiting_since - self._since)
            self._reset()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._flops.give_up()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._validating_since = time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        seconds = time.perf_counter() - self._validating_since
        self._since, self._waiting_since = self._since + seconds, self._waiting_since + seconds

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self._waiting_since = float("inf")  # until the next batch is there: workers fill their queues meanwhile

    def _report(self, trainer: L.Trainer, pl_module: L.LightningModule, seconds: float) -> None:
        speed = {
            "images_per_second": self._images / seconds,
            "data_wait": self._waited / seconds,
            "memory_gb": peak_memory(pl_module.device) / 1e9,
        }
        if self._tokens:
            speed["tokens_per_second"] = self._tokens / seconds
        if self._operations:
            speed["gflops_per_second"] = self._operations / seconds / 1e9
        pl_module.log_dict({f"speed/{name}": value for name, value in speed.items()}, batch_size=1)
        losses = {source: torch.stack(values).mean() for source, values in self._losses.items()}
        self._log_sources(trainer, pl_module, losses)
        if trainer.is_global_zero:
            loss = torch.stack([value for values in self._losses.values() for value in values]).mean().item()
            steps = trainer.global_step - (self._first_step or 0)
            left = (trainer.estimated_stepping_batches - trainer.global_step) * seconds / steps if steps else None
            skipped = f", {self._skipped} records skipped" if self._skipped else ""
            _say(trainer, _line(trainer, loss, speed, left) + skipped)

    def _log_sources(self, trainer: L.Trainer, pl_module: L.LightningModule, losses: dict[str, Tensor]) -> None:
        self._sources |= losses.keys()
        for source, loss in losses.items():
            name = f"train/{source}/loss"
            if len(self._sources) < 2 or "+" in source:
                continue
            if name in self._logged or name not in trainer.callback_metrics:  # else it is the task's own
                self._logged.add(name)
                pl_module.log(name, loss, batch_size=1)


class StepFlops:
    """Counts the operations of training batches: products, convolutions and attention, forward and backward.

    The first batch of a kind is counted while it trains, which changes no number; batches are of a kind whose sources
    and images are alike and whose prompts and tokens agree to about a tenth. The others cost as much. What activation
    checkpointing computes again is counted again. A compiled model cannot be watched so and has no count.
    """

    def __init__(self) -> None:
        self._counted: dict[Bucket, int] = {}
        self._counter: FlopCounterMode | None = None

    def start(self, module: L.LightningModule, batch: Batch) -> None:
        if _bucket(batch) not in self._counted and not is_compiled(module):
            self._counter = FlopCounterMode(display=False)
            self._counter.__enter__()

    def stop(self, batch: Batch) -> int:
        """The operations of the batch that was started, 0 where they are not known."""
        bucket, counter = _bucket(batch), self._counter
        if counter is not None:
            self.give_up()
            self._counted[bucket] = counter.get_total_flops()
        return self._counted.get(bucket, 0)

    def give_up(self) -> None:
        if self._counter is not None:
            self._counter.__exit__(None, None, None)
            self._counter = None


def _bucket(batch: Batch) -> Bucket:
    tokens = [batch.prompts.context, batch.targets.tokens if batch.targets is not None else None]
    sizes = [len(batch.prompts.image_index), *[0 if t is None else t.numel() for t in tokens]]
    rounded = tuple(round(4 * torch.tensor(float(max(size, 1))).log2().item()) for size in sizes)
    return (*sorted(set(batch.sources)), *batch.images.shape, *rounded)


def peak_memory(device: torch.device) -> int:
    """Bytes: of a GPU's tensors at their most, on a CPU of this process at its largest."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _line(trainer: L.Trainer, loss: float, speed: dict[str, float], left: float | None) -> str:
    each = f" (each of {trainer.world_size} processes)" if trainer.world_size > 1 else ""
    parts = [f"step {trainer.global_step}/{trainer.estimated_stepping_batches:.0f}", f"loss {loss:.4g}"]
    if (gradient := trainer.callback_metrics.get("train/gradient_norm")) is not None:
        parts.append(f"gradient {gradient.item():.3g}")
    parts.append(f"{speed['images_per_second']:.3g} images/s{each}")
    if "tokens_per_second" in speed:
        parts.append(f"{speed['tokens_per_second']:,.0f} tokens/s")
    if "gflops_per_second" in speed:
        parts.append(f"{speed['gflops_per_second']:,.1f} GFLOP/s")
    parts += [f"data wait {speed['data_wait']:.0%}", f"{speed['memory_gb']:.2f} GB"]
    if left is not None and left != float("inf"):
        parts.append(f"{timedelta(seconds=round(left))} left")
    return ", ".join(parts)


def _say(trainer: L.Trainer, line: str) -> None:
    bar = trainer.progress_bar_callback
    if bar is not None and getattr(bar, "is_enabled", False):
        bar.print(line)
    else:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
