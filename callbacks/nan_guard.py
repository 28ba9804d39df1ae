"""Stops a run whose loss or gradient is no number or explodes, and leaves a file that repeats the step."""

import math
import os
import statistics
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm

from pixel_llm.metrics.distributed import gather_rows
from pixel_llm.structures import Batch

REPLAY = "replay"  # the entry of a checkpoint that holds the step
_FEW, _RECENT = 20, 100  # losses that say what is usual: before so many nothing is, and so many are looked back on


class NanGuard(L.Callback):
    """Raises ValueError naming step, process and keys at the first loss or gradient that is NaN, infinite or exploding.

    explosion: a loss above 1 that is more than so many times the median of the last 100 of its source counts as
        exploding; None lets it go on. After a (re)start 20 losses are looked at first.

    The file `checkpoints/replay_step_NNNNNN.ckpt` of the log folder is a checkpoint of the moment before the step: the
    weights are those that gave the loss, with the batches of the processes it happened on, for `pixel-llm replay`. All
    processes stop together. Logs train/gradient_norm, of the whole gradient before it is clipped.
    """

    def __init__(self, explosion: float | None = 100.0) -> None:
        self.explosion = explosion
        self._recent: dict[str, deque[float]] = {}
        self._step = -1
        self._batches: list[tuple[int, Batch]] = []  # those whose gradients the next step is made of, by their number
        self._found: dict[str, Any] = {}

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        if trainer.global_step != self._step:
            self._step, self._batches = trainer.global_step, []
        self._batches.append((trainer.fit_loop.total_batch_idx, batch))

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        value = loss.item() * trainer.accumulate_grad_batches / (scaler.get_scale() if scaler else 1)
        complaint = self._complaint(value, self._batches[-1][1])
        self._stop_if_any(trainer, complaint, self._batches[-1:])

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        norm = gradient_norm(pl_module.parameters())
        pl_module.log("train/gradient_norm", norm, batch_size=1)
        if getattr(trainer.precision_plugin, "scaler", None) is None:  # which lets infinite gradients pass by
            finite = math.isfinite(norm.item())
            self._stop_if_any(trainer, None if finite else f"the gradient's norm is {norm.item()}", self._batches)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        if self._found:
            checkpoint[REPLAY] = self._found

    def _complaint(self, loss: float, batch: Batch) -> str | None:
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        recent = self._recent.setdefault("+".join(sorted(set(batch.sources))), deque(maxlen=_RECENT))
        usual = statistics.median(recent) if len(recent) >= _FEW else math.inf
        recent.append(loss)
        if self.explosion is not None and loss > max(1.0, self.explosion * usual):
            return f"the loss is {loss:.4g}, more than {self.explosion:g} times its recent median of {usual:.4g}"
        return None

    def _stop_if_any(self, trainer: L.Trainer, complaint: str | None, batches: list[tuple[int, Batch]]) -> None:
        """Every process comes here at the same place of its step, so that all stop where one has to."""
        if not trainer.strategy.reduce_boolean_decision(complaint is not None, all=False):
            return
        mine: dict[str, Any] = {}
        if complaint is not None:
            kept = [(number, batch.plain()) for number, batch in batches]
            rank = trainer.global_rank
            mine = {f"{rank:06d}": {"rank": rank, "complaint": complaint, "batches": kept}}
        self._found = {
            "step": trainer.global_step + 1,
            "processes": trainer.world_size,
            "seed": int(os.environ.get("PL_GLOBAL_SEED", "0")),
            "precision": str(trainer.precision),
            "found": list(gather_rows(mine).values()),
        }
        raise ValueError(self._message(trainer.world_size) + self._write(trainer))

    def _message(self, processes: int) -> str:
        first = self._found["found"][0]
        place = f" in process {first['rank']} of {processes}" if processes > 1 else ""
        keys = ", ".join(key for _, batch in first["batches"] for key in batch["keys"])
        return f"{first['complaint']} at step {self._found['step']}{place}, on the samples {keys}"

    def _write(self, trainer: L.Trainer) -> str:
        folder = Path(trainer.log_dir or trainer.default_root_dir)  # a broadcast: every process has to ask
        # beside the others: the frozen weights are there already
        file = folder / "checkpoints" / f"replay_step_{self._found['step']:06d}.ckpt"
        try:
            trainer.save_checkpoint(file)
        except OSError as error:  # what happened matters more; the others wait for this process
            trainer.strategy.barrier()
            return f"; the file for a replay could not be written ({error})"
        return f"; to see where it comes from: pixel-llm replay {os.path.relpath(file)}"


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """The L2 norm of all gradients together, sharded ones included; a collective operation where there are any."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    norms = [torch.zeros(())]
    for sharded in (True, False):
        if part := [g for g in gradients if isinstance(g, DTensor) == sharded]:
            norm = get_total_norm(part)
            norms.append(norm.full_tensor() if isinstance(norm, DTensor) else norm)
    return torch.stack([norm.to(norms[-1].device, torch.float32) for norm in norms]).norm()
