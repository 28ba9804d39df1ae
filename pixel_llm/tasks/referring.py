"""What tasks of referring share: answering queries in pixels of the original image, and scoring the answers."""

import sys
from typing import Any

import torch
from torch import Tensor

from pixel_llm.coordinates import box_01_to_original_px
from pixel_llm.core.pixel_llm import PixelLLM
from pixel_llm.metrics.referring import ReferringMetrics
from pixel_llm.metrics.referring_scores import expressions_note, referring_table
from pixel_llm.structures import Batch, ImageFeatures, ReferringPrediction
from pixel_llm.tables import named_figures
from pixel_llm.tasks.base import PixelLLMTask, prompt_keys
from pixel_llm.tasks.optimizer import AdamWSchedule
from pixel_llm.weights.start import StartingWeights


class Referring(PixelLLMTask):
    """Base class of the tasks that find what an expression names.

    Figures are logged for each split of the data; a test prints them as one table.
    """

    def __init__(self, core: PixelLLM, optimizer: AdamWSchedule, weights: StartingWeights | None) -> None:
        super().__init__(core, optimizer, weights)
        self.metrics = ReferringMetrics()

    def answer(self, features: ImageFeatures, batch: Batch) -> list[ReferringPrediction]:
        """One answer for each prompt of the batch."""
        raise NotImplementedError

    def objective(self, features: ImageFeatures, batch: Batch, stage: str) -> Tensor:
        """The loss of a batch whose images are encoded already, logged under the stage."""
        raise NotImplementedError

    def loss(self, batch: Batch, stage: str) -> Tensor:
        return self.objective(self.encode(batch), batch, stage)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        features = self.encode(batch)
        self.objective(features, batch, "val")
        self._score(features, batch)

    def on_validation_epoch_end(self) -> None:
        self._log_scores("val")

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, list[ReferringPrediction]]:
        return {"predictions": self._score(self.encode(batch), batch)}

    def on_test_epoch_end(self) -> None:
        scores = self._log_scores("test")
        asked = getattr(self.sources[0], "evaluation_expressions", None)
        if self.trainer.is_global_zero:
            sys.stdout.write(f"\n{referring_table(scores, expressions_note(asked))}\n")

    @torch.no_grad()
    def predict_step(self, batch: Batch, batch_idx: int, *_: Any) -> list[ReferringPrediction]:
        return self.answer(self.encode(batch), batch)

    @property
    def sources(self) -> list[Any]:
        """The data modules that the expressions come from; the first one is evaluated on."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        return [source for source in getattr(data, "sources", [data]) if source.name == "referring"]

    @torch.no_grad()
    def _score(self, features: ImageFeatures, batch: Batch) -> list[ReferringPrediction]:
        answers = self.answer(features, batch)
        sizes = batch.original_sizes[batch.prompts.image_index].tolist()
        self.metrics.update(batch.references, answers, sizes)
        return answers

    def _log_scores(self, stage: str) -> dict[str, dict[str, float]]:
        scores = self.metrics.compute()
        self.metrics.reset()
        self.log_dict({f"{stage}/{name}": value for name, value in named_figures(scores).items()})
        return scores


def predictions(
    boxes: Tensor, masks: list[dict[str, Any]] | None, iou: Tensor | None, batch: Batch
) -> list[ReferringPrediction]:
    """Answers in pixels of the original images.

    boxes: float[P, 4] in [0, 1].  masks: P run-length encodings.  iou: float[P], expected of the masks.
    """
    index = batch.prompts.image_index.tolist()
    sizes = batch.original_sizes.tolist()
    scores = iou.clamp(0, 1).tolist() if iou is not None else [None] * len(index)
    keys, out = prompt_keys(batch), []
    for row, box in enumerate(boxes.float().clamp(0, 1).tolist()):
        reference = batch.references[row]
        query = reference.caption if reference else ""
        mask = masks[row] if masks else None
        pixels = box_01_to_original_px(box, sizes[index[row]])
        out.append(ReferringPrediction(keys[row], query, pixels, mask, scores[row]))
    return out
