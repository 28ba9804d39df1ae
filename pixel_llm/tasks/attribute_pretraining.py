"""Attribute pretraining: what the visual half of a model should know about the object under each point of the image.

The small stand-in for what released weights and web-scale image-text pairs give the large model: every cell of the
tuned encoder's grid, and every query token of the prompt feature extractor, which then starts on a grid of points,
says whether an object covers its place, and that object's attributes and box.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixel_llm.core.pixel_llm import PixelLLM
from pixel_llm.losses import masked_mean, mean_count
from pixel_llm.structures import Batch, Prompts
from pixel_llm.tasks.base import PixelLLMTask
from pixel_llm.tasks.optimizer import AdamWSchedule
from pixel_llm.weights.start import StartingWeights


class AttributePretraining(PixelLLMTask):
    """Trains the tuned encoder and the extractor; the language model and the location head stay as they are.

    attributes: number of values of each kind of attribute.  box_weight: of the boxes' L1, in [0, 1].
    Reports the share of right attributes, read from the query tokens, in [0, 1].
    """

    def __init__(
        self,
        core: PixelLLM,
        optimizer: AdamWSchedule,
        attributes: list[int],
        weights: StartingWeights | None = None,
        box_weight: float = 5.0,
    ) -> None:
        super().__init__(core, optimizer, weights)
        self.attributes, self.box_weight = attributes, box_weight
        core.language_model.requires_grad_(False)
        core.location_head.requires_grad_(False)
        answers, width = 1 + 4 + sum(attributes), core.language_model.visual_width
        self.cell_reader = nn.Linear(core.tuned_encoder.channels, answers)
        self.token_reader = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, answers))

    def loss(self, batch: Batch, stage: str) -> Tensor:
        features = self.encode(batch)
        images = torch.arange(len(batch.keys), device=features.fused.device)
        whole = torch.tensor([0.0, 0.0, 1.0, 1.0], device=images.device).expand(len(images), 4)
        tokens = self.core.extract(features, Prompts(images, whole))
        cells = features.fused[:, : self.core.tuned_encoder.channels].permute(0, 2, 3, 1)
        by_cells = self._loss(self.cell_reader(cells), batch)
        by_tokens = self._loss(self.token_reader(tokens).unflatten(1, self.core.query_grid), batch)
        values = {"loss": by_cells.total + by_tokens.total, "cells": by_cells.total, "tokens": by_tokens.total}
        right = {f"right_{i}": share for i, share in enumerate(by_tokens.right)}
        self.log_losses(values | {"box": by_tokens.box} | right, stage, len(batch.keys))
        return values["loss"]

    def _loss(self, answers: Tensor, batch: Batch) -> "_Loss":
        """answers: float[B, h, w, 1 + 4 + all attribute values]."""
        covered, boxes, *kinds = answers.split([1, 4, *self.attributes], dim=-1)
        owner = owners(batch, (answers.shape[1], answers.shape[2]))
        hit = owner >= 0
        mine = owner[hit]
        assert batch.labels is not None
        labels = batch.labels[mine]
        coverage = F.binary_cross_entropy_with_logits(covered[..., 0], hit.float())
        distance = ((boxes[hit] + 1) / 2 - batch.prompts.boxes[mine]).abs().mean(-1)
        box = distance.sum() / mean_count(hit)
        attributes, right = [], []
        for kind, logits in enumerate(kinds):
            label, logits = labels[:, kind], logits[hit]
            known = label >= 0
            attributes.append(masked_mean(F.cross_entropy(logits, label, ignore_index=-1, reduction="none"), known))
            right.append(((logits.argmax(-1) == label) & known).sum() / known.sum().clamp(min=1))
        return _Loss(coverage + self.box_weight * box + torch.stack(attributes).mean(), box.detach(), right)


class _Loss(NamedTuple):
    """total is differentiable; box: mean L1 in [0, 1]; right: for each kind the share of right attributes."""

    total: Tensor
    box: Tensor
    right: list[Tensor]


def owners(batch: Batch, grid: tuple[int, int]) -> Tensor:
    """int[B, h, w]: the prompt whose visible mask covers most of each cell, at least a tenth of it; -1 for none."""
    assert batch.masks is not None
    shares = F.adaptive_avg_pool2d(batch.masks.float(), grid)
    owner = torch.full((len(batch.keys), *grid), -1, device=shares.device)
    best = torch.full((len(batch.keys), *grid), 0.1, device=shares.device)
    for prompt, image in enumerate(batch.prompts.image_index.tolist()):
        more = shares[prompt] > best[image]
        best[image][more] = shares[prompt][more]
        owner[image][more] = prompt
    return owner
