"""Trace captioning on Localized Narratives: every word of the caption with its place (Section 3.3)."""

import torch
from torch import Tensor

from pixel_llm.core.pixel_llm import PixelLLM
from pixel_llm.losses import (
    Normalisation,
    location_distance,
    smoothed_cross_entropy,
    supervised_tokens,
    trace_caption_loss,
)
from pixel_llm.metrics.lbm import LocalBipartiteMatching
from pixel_llm.metrics.object_words import ObjectWordsInside
from pixel_llm.metrics.point_l1 import PointL1
from pixel_llm.structures import Batch, ImageFeatures, Prediction, Reference, TokenOutputs
from pixel_llm.tasks.captioning import Captioning
from pixel_llm.tasks.optimizer import AdamWSchedule
from pixel_llm.tasks.words import boxes_of_words
from pixel_llm.weights.start import StartingWeights


class TraceCaptioning(Captioning):
    """Learns words and their locations together, by Equation 4.

    location_weight: lambda, on distances in pixels of the canvas.  normalisation: see `trace_caption_loss`.
    Other arguments: see `Captioning`.

    Locations are scored by controlled trace generation: the model reads the true caption and places its words.
    Captions are scored on what it writes by itself.
    """

    def __init__(
        self,
        core: PixelLLM,
        optimizer: AdamWSchedule,
        weights: StartingWeights | None = None,
        location_weight: float = 0.1,
        normalisation: Normalisation = "joint",
        label_smoothing: float = 0.1,
        max_tokens: int = 128,
        beams: int = 1,
    ) -> None:
        super().__init__(core, optimizer, weights, label_smoothing, max_tokens, beams)
        self.location_weight, self.normalisation = location_weight, normalisation
        self.lbm_k0, self.lbm_k1 = LocalBipartiteMatching(k=0), LocalBipartiteMatching(k=1)
        self.point_l1 = PointL1()
        self.object_words = ObjectWordsInside()

    def loss(self, batch: Batch, stage: str) -> Tensor:
        return self._loss(batch, self.trace(self.encode(batch), batch), stage)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        outputs = self.trace(self.encode(batch), batch)
        self._loss(batch, outputs, "val")
        self._score_locations(batch, outputs)

    def on_validation_epoch_end(self) -> None:
        self._log_location_scores("val")

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, list[Prediction]]:
        features = self.encode(batch)
        self._score_locations(batch, self.trace(features, batch))
        return {"predictions": self.score_captions(features, batch)}

    def on_test_epoch_end(self) -> None:
        self._log_location_scores("test")
        super().on_test_epoch_end()

    def trace(self, features: ImageFeatures, batch: Batch) -> TokenOutputs:
        """Controlled trace generation: the model reads the true captions and places their tokens."""
        assert batch.targets is not None
        return self.core(features, batch.prompts, batch.targets.tokens)

    def _loss(self, batch: Batch, outputs: TokenOutputs, stage: str) -> Tensor:
        targets, lm = batch.targets, self.core.language_model
        assert targets is not None
        words = targets.tokens[:, 1:]
        scale = batch.sizes[batch.prompts.image_index].flip(-1)
        loss = trace_caption_loss(
            smoothed_cross_entropy(outputs.logits[:, :-1], words, self.label_smoothing),
            supervised_tokens(words, lm.pad_id, lm.eos_id),
            location_distance(outputs.locations[:, 1:], targets.locations[:, 1:], scale),
            targets.located[:, 1:],
            self.location_weight,
            self.normalisation,
        )
        values = {"loss": loss.total, "words": loss.words, "locations_px": loss.locations}
        self.log_losses(values, stage, len(batch.keys))
        return loss.total

    def _score_locations(self, batch: Batch, outputs: TokenOutputs) -> None:
        targets = batch.targets
        assert targets is not None
        kept = [row for row, reference in enumerate(batch.references) if reference is not None]
        references = [r for r in batch.references if r is not None]
        boxes = [boxes_of_words(outputs.locations[row], batch.references[row]) for row in kept]  # type: ignore[arg-type]
        for metric in (self.lbm_k0, self.lbm_k1):
            metric.update(boxes, [reference.boxes for reference in references])
        self.point_l1.update(outputs.locations[kept], targets.locations[kept], targets.located[kept])
        for reference, predicted in zip(references, boxes, strict=True):
            words, truth = object_words(reference)
            if words:
                self.object_words.update(torch.tensor(predicted)[words].view(-1, 2, 2).mean(1), torch.tensor(truth))

    def _log_location_scores(self, stage: str) -> None:
        metrics = {"lbm_k0": self.lbm_k0, "lbm_k1": self.lbm_k1, "point_l1": self.point_l1}
        for name, metric in {**metrics, "object_words_inside": self.object_words}.items():
            value = metric.compute().float()
            if metric is not self.object_words or not value.isnan():  # that one is where the data name no objects
                self.log(f"{stage}/{name}", value, prog_bar=name == "lbm_k0")
            metric.reset()


def object_words(reference: Reference) -> tuple[list[int], list[tuple[float, float, float, float]]]:
    """Indices of the words that name an object, and for each the box of its object in [0, 1]."""
    words, boxes = [], []
    for mention in reference.mentions:
        for word, (begin, end) in enumerate(reference.words):
            if begin < mention.end and end > mention.begin:
                words.append(word)
                boxes.append(mention.box)
    return words, boxes
