"""Counts the training records that could not be used."""

import sys
from typing import Any

import lightning as L
import torch

from pixel_llm.structures import Batch


class SkippedRecords(L.Callback):
    """Logs data/skipped_records, of each epoch and of all processes, and at the end says how many there were in all.

    The loader names the first one; what stands in for a skipped record, see `datamodules/loader.py`.
    """

    def __init__(self) -> None:
        self._count = 0

    def state_dict(self) -> dict[str, Any]:
        return {"count": self._count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._count = state_dict["count"]

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        self._count += len(batch.skipped)
        shared: dict[str, Any] = {"on_step": False, "on_epoch": True, "reduce_fx": "sum", "sync_dist": True}
        pl_module.log("data/skipped_records", float(len(batch.skipped)), batch_size=1, **shared)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        count = torch.tensor(float(self._count), device=pl_module.device)
        total = int(trainer.strategy.reduce(count, reduce_op="sum"))
        if total and trainer.is_global_zero:
            sys.stderr.write(f"{total:,} training records could not be used; others took their places\n")
