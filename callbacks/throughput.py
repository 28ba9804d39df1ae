"""How fast a training runs: images and tokens per second, and the share of time spent waiting for data."""

import time
from typing import Any

import lightning as L

from pixel_llm.structures import Batch


class Throughput(L.Callback):
    """Logs speed/images_per_second, speed/tokens_per_second and speed/data_wait (in [0, 1]) over the last steps.

    every_n_steps: length of the stretch that a figure is averaged over; figures are of this process.
    """

    def __init__(self, every_n_steps: int = 50) -> None:
        self.every_n_steps = every_n_steps
        self._reset()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._reset()  # a resumed run begins in the middle of an epoch

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._reset()

    def _reset(self) -> None:
        self._since = self._waiting_since = time.perf_counter()
        self._waited, self._images, self._tokens, self._steps = 0.0, 0, 0, 0

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        self._waited += time.perf_counter() - self._waiting_since

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self._images += len(batch.keys)
        self._tokens += batch.targets.tokens.numel() if batch.targets is not None else 0
        self._steps += 1
        self._waiting_since = time.perf_counter()
        if self._steps == self.every_n_steps:
            seconds = self._waiting_since - self._since
            figures = {"images_per_second": self._images / seconds, "data_wait": self._waited / seconds}
            if self._tokens:
                figures["tokens_per_second"] = self._tokens / seconds
            pl_module.log_dict({f"speed/{name}": value for name, value in figures.items()}, batch_size=1)
            self._reset()
