"""Dense object captioning: every object of an image with its box and its sentence (Section 3.4)."""

import torch
from torch import Tensor

from pixel_llm.coordinates import Box, box_01_to_original_px
from pixel_llm.core.pixel_llm import PixelLLM
from pixel_llm.core.proposal_head import ProposalHead
from pixel_llm.detection_losses import detection_loss
from pixel_llm.metrics.dense_captioning import DenseCaptioningMetrics
from pixel_llm.metrics.dense_captioning_scores import DetectedRegions, TrueRegions
from pixel_llm.structures import Batch, ImageFeatures, Prompts, RegionPrediction, Regions, RoISamples
from pixel_llm.tasks.optimizer import AdamWSchedule
from pixel_llm.tasks.region_captions import RegionTask, region_predictions, select
from pixel_llm.weights.start import StartingWeights


class DenseCaptioning(RegionTask):
    """Learns to find objects and to caption what it has found, end to end; no gradient flows from words to boxes.

    The prompts of a batch are the true regions. Captions are learned on sampled boxes, each with the sentence of the
    region that it matches.

    captioned_per_image: so many of an image's sampled boxes are captioned in training.
    multiply_caption_score: a detection's score becomes sqrt(score * p(caption)); the published code can, and does not.
    Other arguments: see `RegionTask`.
    """

    def __init__(
        self,
        core: PixelLLM,
        optimizer: AdamWSchedule,
        weights: StartingWeights | None = None,
        captioned_per_image: int = 32,
        multiply_caption_score: bool = False,
        label_smoothing: float = 0.1,
        max_tokens: int = 40,
        beams: int = 1,
        captions_at_once: int = 256,
    ) -> None:
        super().__init__(core, optimizer, weights, label_smoothing, max_tokens, beams, captions_at_once)
        if core.proposal_head is None:
            raise ValueError("dense captioning needs a core with a proposal head: set its proposal_head")
        self.captioned_per_image, self.multiply_caption_score = captioned_per_image, multiply_caption_score
        self.metrics = DenseCaptioningMetrics()

    @property
    def proposal_head(self) -> ProposalHead:
        assert self.core.proposal_head is not None
        return self.core.proposal_head

    def loss(self, batch: Batch, stage: str) -> Tensor:
        features = self.encode(batch)
        truth = Regions(batch.prompts.image_index, batch.prompts.boxes)
        outputs = self.proposal_head(features)
        samples = self.proposal_head.sample(outputs, truth)
        found = detection_loss(outputs, samples, truth)
        words = self._caption_loss(features, batch, samples)
        values = {"loss": found.total + words, "words": words.detach(), "detection": found.total.detach()}
        self.log_losses(values | found.parts(), stage, len(batch.keys))
        return values["loss"]

    def _caption_loss(self, features: ImageFeatures, batch: Batch, samples: RoISamples) -> Tensor:
        assert batch.targets is not None
        rows = first_matches(samples, self.captioned_per_image)
        if len(rows):
            matched = samples.matched[rows]
            context = select(batch.prompts, matched).context
            prompts = Prompts(samples.image_index[rows], samples.boxes[rows], context)
            tokens = batch.targets.tokens[matched]
        else:  # a batch without any region: its empty questions have no loss, but all parameters take part
            prompts, tokens = batch.prompts, batch.targets.tokens
        return self.words_loss(features, prompts, tokens)

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, list[RegionPrediction]]:
        answers = self.answer(self.encode(batch), batch)
        self.metrics.update(*scored_images(batch, answers))
        return {"predictions": answers}

    def on_test_epoch_end(self) -> None:
        self.report(self.metrics, f"protocol: {self.metrics.protocol}")

    @torch.no_grad()
    def answer(self, features: ImageFeatures, batch: Batch) -> list[RegionPrediction]:
        """The objects of all images of a batch, image by image, the surest first."""
        found = self.proposal_head.detect(self.proposal_head(features))
        assert found.scores is not None
        context = batch.prompts.context
        if context is not None:  # the same for every region: what is asked for, not where
            context = context[:1].expand(len(found.boxes), -1)
        prompts = Prompts(found.image_index, found.boxes, context)
        captions, log_p = self.write(features, prompts)
        scores = found.scores
        if self.multiply_caption_score:
            scores = (scores.clamp(min=0) * log_p.exp()).sqrt()
        images = image_keys(batch)
        keys = [images[i] for i in found.image_index.tolist()]
        answers = region_predictions(keys, found.boxes, captions, scores, found.image_index, batch)
        order = sorted(range(len(answers)), key=lambda row: (int(found.image_index[row]), -answers[row].score))
        return [answers[row] for row in order]


def first_matches(samples: RoISamples, per_image: int) -> Tensor:
    """Indices int[S'] of the first boxes of each image that match a region, at most `per_image` of each."""
    rows = (samples.matched >= 0).nonzero()[:, 0]
    index = samples.image_index[rows]
    within = torch.arange(len(rows), device=rows.device) - torch.searchsorted(index, index)
    return rows[within < per_image]


def image_keys(batch: Batch) -> list[str]:
    """B names of the images; as `prompt_keys`, empty where an image only fills up the batch."""
    keys = [""] * len(batch.keys)
    for reference, image in zip(batch.references, batch.prompts.image_index.tolist(), strict=True):
        if reference is not None:
            keys[image] = reference.image
    return keys


def scored_images(
    batch: Batch, answers: list[RegionPrediction]
) -> tuple[list[str], list[TrueRegions], list[DetectedRegions]]:
    """Names, truth and detections of the images of a batch, without those that only fill it up."""
    keys = image_keys(batch)
    true: dict[int, list[tuple[Box, str]]] = {}
    for reference, image in zip(batch.references, batch.prompts.image_index.tolist(), strict=True):
        if reference is not None:
            mine = true.setdefault(image, [])
            size = batch.original_sizes[image].tolist()
            mine += [(box_01_to_original_px(box, size), reference.caption) for box in reference.targets]
    names = [keys[image] for image in true]
    detected = [DetectedRegions.of((a.box, a.score, a.caption) for a in answers if a.key == name) for name in names]
    return names, [TrueRegions.of(mine) for mine in true.values()], detected
