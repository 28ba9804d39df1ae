"""What captioning tasks share: writing by themselves, and scoring what they wrote."""

from typing import Any

import torch

from pixel_llm.core.pixel_llm import PixelLLM
from pixel_llm.metrics.captions import CaptionMetrics
from pixel_llm.structures import Batch, ImageFeatures, Prediction
from pixel_llm.tasks.base import WritingTask, prompt_keys
from pixel_llm.tasks.optimizer import AdamWSchedule
from pixel_llm.tasks.words import predictions
from pixel_llm.weights.start import StartingWeights


class Captioning(WritingTask):
    """Base class of the tasks in which a PixelLLM writes captions.

    Arguments: see `WritingTask`.
    """

    def __init__(
        self,
        core: PixelLLM,
        optimizer: AdamWSchedule,
        weights: StartingWeights | None,
        label_smoothing: float,
        max_tokens: int,
        beams: int,
    ) -> None:
        super().__init__(core, optimizer, weights, label_smoothing, max_tokens, beams)
        self.caption_metrics = CaptionMetrics()

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, list[Prediction]]:
        return {"predictions": self.score_captions(self.encode(batch), batch)}

    def score_captions(self, features: ImageFeatures, batch: Batch) -> list[Prediction]:
        """Write captions and keep them for the metrics of the epoch."""
        predicted = self.write(features, batch)
        for prediction, reference in zip(predicted, batch.references, strict=True):
            if reference is not None:
                truth = [[reference.caption, *reference.alternatives]]
                self.caption_metrics.update([reference.key], [prediction.caption], truth)
        return predicted

    def on_test_epoch_end(self) -> None:
        self.log_dict({f"test/{name}": value for name, value in self.caption_metrics.compute().items()})
        self.caption_metrics.reset()

    @torch.no_grad()
    def predict_step(self, batch: Batch, batch_idx: int, *_: Any) -> list[Prediction]:
        """One caption with located words for each prompt of the batch."""
        return self.write(self.encode(batch), batch)

    @torch.no_grad()
    def write(self, features: ImageFeatures, batch: Batch) -> list[Prediction]:
        """Captions of images that are encoded already."""
        generation = self.core.generate(features, batch.prompts, self.rule)
        index = batch.prompts.image_index
        return predictions(generation, prompt_keys(batch), index, batch.original_sizes, self.tokenizer)
