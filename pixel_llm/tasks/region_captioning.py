"""Location-conditioned captioning: what is in a box, or under some clicks (Section 3.4)."""

from typing import Any

import torch
from torch import Tensor

from pixel_llm.core.decoding import DecodingRule
from pixel_llm.core.pixel_llm import PixelLLM
from pixel_llm.losses import caption_loss
from pixel_llm.metrics.region_captions import SINGLE_REFERENCE, RegionCaptionMetrics
from pixel_llm.structures import Batch, ImageFeatures, RegionPrediction
from pixel_llm.tasks.base import prompt_keys
from pixel_llm.tasks.optimizer import AdamWSchedule
from pixel_llm.tasks.region_captions import RegionTask, region_predictions, write_captions
from pixel_llm.weights.start import StartingWeights


class RegionCaptioning(RegionTask):
    """Learns to say what is in each prompt's region; the heads for places, masks and proposals stay as they are.

    label_smoothing: see `pixel_llm.losses`.  max_tokens, beams: of decoding in tests and predictions.
    captions_at_once: so many regions are decoded together.
    """

    def __init__(
        self,
        core: PixelLLM,
        optimizer: AdamWSchedule,
        weights: StartingWeights | None = None,
        label_smoothing: float = 0.1,
        max_tokens: int = 40,
        beams: int = 1,
        captions_at_once: int = 256,
    ) -> None:
        super().__init__(core, optimizer, weights)
        for part in (core.location_head, core.mask_head, core.proposal_head):
            if part is not None:
                part.requires_grad_(False)
        self.label_smoothing, self.captions_at_once = label_smoothing, captions_at_once
        self.rule = DecodingRule(max_tokens, beams)
        self.metrics = RegionCaptionMetrics()

    def loss(self, batch: Batch, stage: str) -> Tensor:
        assert batch.targets is not None
        tokens = batch.targets.tokens
        outputs = self.core(self.encode(batch), batch.prompts, tokens)
        lm = self.core.language_model
        loss = caption_loss(outputs.logits, tokens, lm.pad_id, lm.eos_id, self.label_smoothing)
        self.log_losses({"loss": loss}, stage, len(batch.keys))
        return loss

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, list[RegionPrediction]]:
        answered = []
        for answer, reference in zip(self.describe(self.encode(batch), batch), batch.references, strict=True):
            if reference is not None and reference.targets:  # else the image has no region
                self.metrics.update([reference.key], [answer.caption], [[reference.caption]])
                answered.append(answer)
        return {"predictions": answered}

    def on_test_epoch_end(self) -> None:
        self.report(self.metrics, f"protocol: {SINGLE_REFERENCE}")

    def predict_step(self, batch: Batch, batch_idx: int, *_: Any) -> list[RegionPrediction]:
        return self.describe(self.encode(batch), batch)

    @torch.no_grad()
    def describe(self, features: ImageFeatures, batch: Batch) -> list[RegionPrediction]:
        """One answer for each prompt of the batch."""
        prompts = batch.prompts
        captions, scores = write_captions(
            self.core, features, prompts, self.rule, self.tokenizer, self.captions_at_once
        )
        return region_predictions(prompt_keys(batch), prompts.boxes, captions, scores, prompts.image_index, batch)
