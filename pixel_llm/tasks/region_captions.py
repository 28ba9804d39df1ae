"""What tasks that caption regions share: writing many captions of few images, and answers in pixels."""

import sys
from typing import Any

import torch
from torch import Tensor

from pixel_llm.coordinates import box_01_to_original_px
from pixel_llm.core.decoding import DecodingRule
from pixel_llm.core.pixel_llm import PixelLLM
from pixel_llm.metrics.dense_captioning import DenseCaptioningMetrics
from pixel_llm.metrics.region_captions import RegionCaptionMetrics
from pixel_llm.structures import Batch, ImageFeatures, Prompts, RegionPrediction
from pixel_llm.tables import figures_table, named_figures
from pixel_llm.tasks.base import WritingTask
from pixel_llm.tasks.optimizer import AdamWSchedule
from pixel_llm.weights.start import StartingWeights


class RegionTask(WritingTask):
    """Base class of the tasks that caption regions and are scored on them, split by split.

    captions_at_once: so many regions are decoded together, which bounds the memory.
    Other arguments: see `WritingTask`. The location head stays as it is.
    """

    def __init__(
        self,
        core: PixelLLM,
        optimizer: AdamWSchedule,
        weights: StartingWeights | None,
        label_smoothing: float,
        max_tokens: int,
        beams: int,
        captions_at_once: int,
    ) -> None:
        super().__init__(core, optimizer, weights, label_smoothing, max_tokens, beams)
        core.location_head.requires_grad_(False)
        self.captions_at_once = captions_at_once

    def answer(self, features: ImageFeatures, batch: Batch) -> list[RegionPrediction]:
        """What is said of regions of images that are encoded already."""
        raise NotImplementedError

    @torch.no_grad()
    def predict_step(self, batch: Batch, batch_idx: int, *_: Any) -> list[RegionPrediction]:
        return self.answer(self.encode(batch), batch)

    def write(self, features: ImageFeatures, prompts: Prompts) -> tuple[list[str], Tensor]:
        """See `write_captions`."""
        return write_captions(self.core, features, prompts, self.rule, self.tokenizer, self.captions_at_once)

    def report(self, metrics: RegionCaptionMetrics | DenseCaptioningMetrics, note: str) -> None:
        """Log the figures of a test, and print them as a table with what they depend on."""
        scores = metrics.compute()
        metrics.reset()
        self.log_dict({f"test/{name}": value for name, value in named_figures(scores).items()})
        if scores and self.trainer.is_global_zero:
            sys.stdout.write(f"\n{figures_table(scores, note)}\n")


@torch.no_grad()
def write_captions(
    core: PixelLLM, features: ImageFeatures, prompts: Prompts, rule: DecodingRule, tokenizer: Any, at_once: int
) -> tuple[list[str], Tensor]:
    """P captions and their log-probabilities float[P].

    at_once: so many prompts are decoded together, which bounds the memory however many there are.
    """
    captions: list[str] = []
    scores = [prompts.boxes.new_empty(0)]
    for rows in torch.arange(len(prompts.boxes), device=prompts.boxes.device).split(at_once):
        if not len(rows):  # what an empty tensor is split into
            continue
        generation = core.generate(features, select(prompts, rows), rule)
        captions += [tokenizer.decode(tokens)[0] for tokens in generation.tokens.tolist()]
        scores.append(generation.scores)
    return captions, torch.cat(scores)


def select(prompts: Prompts, rows: Tensor) -> Prompts:
    """Some of the prompts, by their indices."""
    others = (prompts.context, prompts.points, prompts.point_labels)
    return Prompts(prompts.image_index[rows], prompts.boxes[rows], *(None if t is None else t[rows] for t in others))


def region_predictions(
    keys: list[str], boxes: Tensor, captions: list[str], scores: Tensor, image_index: Tensor, batch: Batch
) -> list[RegionPrediction]:
    """boxes: float[P, 4] in [0, 1].  scores: float[P].  image_index: int[P]."""
    sizes = batch.original_sizes[image_index].tolist()
    pixels = [box_01_to_original_px(box, size) for box, size in zip(boxes.float().tolist(), sizes, strict=True)]
    return [RegionPrediction(*answer) for answer in zip(keys, pixels, captions, scores.float().tolist(), strict=True)]
