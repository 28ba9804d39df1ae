"""Stops a run whose loss is no number, and says which samples it happened on."""

from typing import Any

import lightning as L
import torch


class NanGuard(L.Callback):
    """Raises ValueError naming step and keys at the first loss that is NaN or infinite."""

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        if isinstance(loss, torch.Tensor) and not torch.isfinite(loss).all():
            keys = ", ".join(batch.keys)
            raise ValueError(f"the loss is {loss.item()} at step {trainer.global_step}, on the samples {keys}")
