"""Shows what a model says about fixed validation images, in TensorBoard and as files."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from numpy.typing import NDArray
from PIL import Image

from pixel_llm.structures import Batch


class Pictures(L.Callback, ABC):
    """Base class of the callbacks that keep the first validation (or test) images and draw the answers to them.

    images: how many.  every_n_steps: draw during training when that many steps have passed since the last time, at
    the next validation; a test draws once. Pictures go to TensorBoard and, as PNG, into `pictures/` of the log folder;
    where several kinds of data are evaluated, into one more folder below it, such as `pictures/referring/`.
    """

    tag: str  # of the pictures in TensorBoard
    sources: Sequence[str]  # of batches that can be drawn, where several kinds are evaluated; by their data modules

    def __init__(self, images: int = 4, every_n_steps: int = 1000) -> None:
        self.images, self.every_n_steps = images, every_n_steps
        self._batch: Batch | None = None
        self._drawn_at = -every_n_steps

    @abstractmethod
    def draw(self, batch: Batch, image: int, prompts: list[int], predicted: list[Any]) -> Image.Image | None:
        """The picture of an image of the batch; None where there is nothing to show.

        prompts: indices of those that ask about the image.  predicted: P answers, what `predict_step` returned.
        """

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int, *_: Any
    ) -> None:
        if batch_idx == 0 and set(batch.sources) <= set(self.sources):
            self._batch = batch

    def on_test_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int, *_: Any
    ) -> None:
        self.on_validation_batch_start(trainer, pl_module, batch, batch_idx)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        due = trainer.global_step - self._drawn_at >= self.every_n_steps
        if due and not trainer.sanity_checking:
            self._drawn_at = trainer.global_step
            self._draw_all(trainer, pl_module, f"step_{trainer.global_step:06d}")

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._draw_all(trainer, pl_module, "test")

    @torch.no_grad()
    def _draw_all(self, trainer: L.Trainer, pl_module: L.LightningModule, name: str) -> None:
        batch = self._batch
        folder = Path(trainer.log_dir or trainer.default_root_dir) / "pictures"  # a broadcast: every process has to ask
        if isinstance(trainer.test_dataloaders or trainer.val_dataloaders, list):
            folder /= self.tag
        if batch is None or not trainer.is_global_zero:
            return
        predicted = pl_module.predict_step(batch, 0)
        folder.mkdir(parents=True, exist_ok=True)
        index = batch.prompts.image_index.tolist()
        for image in range(min(self.images, len(batch.keys))):
            drawn = self.draw(batch, image, [p for p, i in enumerate(index) if i == image], predicted)
            if drawn is None:
                continue
            drawn.save(folder / f"{name}_{image}.png")
            if isinstance(trainer.logger, TensorBoardLogger):
                trainer.logger.experiment.add_image(
                    f"{self.tag}/{image}", np.asarray(drawn), trainer.global_step, dataformats="HWC"
                )


def shown_pixels(batch: Batch, image: int) -> NDArray[np.uint8]:
    """uint8[h, w, 3]: the real part of a canvas."""
    height, width = batch.sizes[image].tolist()
    return batch.images[image, :, :height, :width].permute(1, 2, 0).to("cpu", torch.uint8).numpy()
