"""Image captioning without locations: the first pretraining stage, on image-text pairs."""

from typing import Any

import torch
from torch import Tensor

from pixel_llm.core.decoding import DecodingRule
from pixel_llm.core.pixel_llm import PixelLLM
from pixel_llm.losses import masked_mean, smoothed_cross_entropy, supervised_tokens
from pixel_llm.metrics.captions import CaptionMetrics
from pixel_llm.structures import Batch, Prediction
from pixel_llm.tasks.base import Task
from pixel_llm.tasks.optimizer import AdamWSchedule
from pixel_llm.tasks.words import predictions
from pixel_llm.weights.start import StartingWeights


class ImageCaptioning(Task):
    """Learns to write captions; the location head stays as it is.

    With a data module that splits captions (`split_prefix`), part of the caption is given and the rest is learned,
    as in the paper's pretraining on image-text pairs.
    label_smoothing: see `pixel_llm.losses`.  max_tokens, beams: of decoding in tests and predictions.
    """

    core: PixelLLM

    def __init__(
        self,
        core: PixelLLM,
        optimizer: AdamWSchedule,
        weights: StartingWeights | None = None,
        label_smoothing: float = 0.1,
        max_tokens: int = 40,
        beams: int = 1,
    ) -> None:
        super().__init__(core, optimizer, weights)
        self.label_smoothing = label_smoothing
        self.rule = DecodingRule(max_tokens, beams)
        self.caption_metrics = CaptionMetrics()
        core.location_head.requires_grad_(False)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self._loss(batch, "train")

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._loss(batch, "val")

    def _loss(self, batch: Batch, stage: str) -> Tensor:
        assert batch.targets is not None
        features = self.core.encode_images(batch.images, batch.sizes)
        outputs = self.core(features, batch.prompts, batch.targets.tokens)
        targets = batch.targets.tokens[:, 1:]
        lm = self.core.language_model
        counts = supervised_tokens(targets, lm.pad_id, lm.eos_id)
        loss = smoothed_cross_entropy(outputs.logits[:, :-1], targets, self.label_smoothing)
        mean = masked_mean(loss, counts)
        self.log_losses({"loss": mean}, stage, len(batch.keys))
        return mean

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, list[Prediction]]:
        predicted = self.predict_step(batch, batch_idx)
        for prediction, reference in zip(predicted, batch.references, strict=True):
            if reference is not None:
                truth = [[reference.caption, *reference.alternatives]]
                self.caption_metrics.update([reference.key], [prediction.caption], truth)
        return {"predictions": predicted}

    def on_test_epoch_end(self) -> None:
        self.log_dict({f"test/{name}": value for name, value in self.caption_metrics.compute().items()})
        self.caption_metrics.reset()

    @torch.no_grad()
    def predict_step(self, batch: Batch, batch_idx: int, *_: Any) -> list[Prediction]:
        """One prediction for each prompt of the batch."""
        features = self.core.encode_images(batch.images, batch.sizes)
        generation = self.core.generate(features, batch.prompts, self.rule)
        keys = [batch.keys[i] for i in batch.prompts.image_index.tolist()]
        return predictions(generation, keys, batch.prompts.image_index, batch.original_sizes, self.tokenizer)
