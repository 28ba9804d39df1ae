"""Shows fixed validation images with their captions and traces, prediction beside truth."""

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from pixel_llm.coordinates import box_01_to_original_px
from pixel_llm.drawing import Panel, draw_traces
from pixel_llm.structures import Batch, Reference, Word


class TracePictures(L.Callback):
    """Keeps the first validation (or test) images and draws them.

    images: how many.  every_n_steps: draw during training when that many steps have passed since the last time, at
    the next validation; a test draws once. Pictures go to TensorBoard and, as PNG, into `pictures/` of the log folder.
    """

    def __init__(self, images: int = 4, every_n_steps: int = 1000) -> None:
        self.images, self.every_n_steps = images, every_n_steps
        self._batch: Batch | None = None
        self._drawn_at = -every_n_steps

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int, *_: Any
    ) -> None:
        if batch_idx == 0:
            self._batch = batch

    def on_test_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int, *_: Any
    ) -> None:
        self.on_validation_batch_start(trainer, pl_module, batch, batch_idx)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        due = trainer.global_step - self._drawn_at >= self.every_n_steps
        if due and not trainer.sanity_checking:
            self._drawn_at = trainer.global_step
            self._draw(trainer, pl_module, f"step_{trainer.global_step:06d}")

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._draw(trainer, pl_module, "test")

    @torch.no_grad()
    def _draw(self, trainer: L.Trainer, pl_module: L.LightningModule, name: str) -> None:
        batch = self._batch
        folder = Path(trainer.log_dir or trainer.default_root_dir) / "pictures"  # a broadcast: every process has to ask
        if batch is None or not trainer.is_global_zero:
            return
        predicted = pl_module.predict_step(batch, 0)
        folder.mkdir(parents=True, exist_ok=True)
        for image, prompt in enumerate(_first_prompts(batch, self.images)):
            reference = batch.references[prompt]
            pixels = _image(batch, image)
            size = (pixels.shape[0], pixels.shape[1])
            own = [_to_shown(word, batch, image) for word in predicted[prompt].words]
            panels = [Panel("prediction", own)]
            if reference is not None:
                panels.append(Panel("truth", true_words(reference, size)))
            drawn = draw_traces(pixels, panels)
            drawn.save(folder / f"{name}_{image}.png")
            if isinstance(trainer.logger, TensorBoardLogger):
                trainer.logger.experiment.add_image(
                    f"traces/{image}", np.asarray(drawn), trainer.global_step, dataformats="HWC"
                )


def true_words(reference: Reference, size: tuple[int, int]) -> list[Word | str]:
    """The words of a reference with their boxes in pixels of an image of (height, width)."""
    texts = [reference.caption[begin:end] for begin, end in reference.words]
    pairs = zip(texts, reference.boxes, strict=True)
    return [text if box is None else Word(text, box_01_to_original_px(box, size)) for text, box in pairs]


def _first_prompts(batch: Batch, images: int) -> list[int]:
    """The first prompt of each of the first images."""
    index = batch.prompts.image_index.tolist()
    return [index.index(image) for image in range(min(images, len(batch.keys))) if image in index]


def _image(batch: Batch, image: int) -> np.ndarray:
    """uint8[h, w, 3]: the real part of a canvas."""
    height, width = batch.sizes[image].tolist()
    return batch.images[image, :, :height, :width].permute(1, 2, 0).to("cpu", torch.uint8).numpy()


def _to_shown(word: Word, batch: Batch, image: int) -> Word:
    """A word in pixels of the original image -> of the canvas that is shown."""
    height, width = (batch.sizes[image] / batch.original_sizes[image]).tolist()
    x0, y0, x1, y1 = word.box
    return Word(word.text, (x0 * width, y0 * height, x1 * width, y1 * height))
