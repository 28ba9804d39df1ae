"""Location-conditioned captioning: what is in a box, or under some clicks (Section 3.4)."""

import torch
from torch import Tensor

from pixel_llm.core.pixel_llm import PixelLLM
from pixel_llm.metrics.region_captions import SINGLE_REFERENCE, RegionCaptionMetrics
from pixel_llm.structures import Batch, ImageFeatures, RegionPrediction
from pixel_llm.tasks.base import prompt_keys
from pixel_llm.tasks.optimizer import AdamWSchedule
from pixel_llm.tasks.region_captions import RegionTask, region_predictions
from pixel_llm.weights.start import StartingWeights


class RegionCaptioning(RegionTask):
    """Learns to say what is in each prompt's region; the heads for places, masks and proposals stay as they are.

    Arguments: see `RegionTask`.
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
        super().__init__(core, optimizer, weights, label_smoothing, max_tokens, beams, captions_at_once)
        for part in (core.mask_head, core.proposal_head):
            if part is not None:
                part.requires_grad_(False)
        self.metrics = RegionCaptionMetrics()

    def loss(self, batch: Batch, stage: str) -> Tensor:
        assert batch.targets is not None
        loss = self.words_loss(self.encode(batch), batch.prompts, batch.targets.tokens)
        self.log_losses({"loss": loss}, stage, len(batch.keys))
        return loss

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, list[RegionPrediction]]:
        answered = []
        for answer, reference in zip(self.answer(self.encode(batch), batch), batch.references, strict=True):
            if reference is not None and reference.targets:  # else the image has no region
                self.metrics.update([reference.key], [answer.caption], [[reference.caption]])
                answered.append(answer)
        return {"predictions": answered}

    def on_test_epoch_end(self) -> None:
        self.report(self.metrics, f"protocol: {SINGLE_REFERENCE}")

    @torch.no_grad()
    def answer(self, features: ImageFeatures, batch: Batch) -> list[RegionPrediction]:
        """One answer for each prompt of the batch."""
        prompts = batch.prompts
        captions, scores = self.write(features, prompts)
        return region_predictions(prompt_keys(batch), prompts.boxes, captions, scores, prompts.image_index, batch)
