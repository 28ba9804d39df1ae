"""Referring localization and segmentation: from an expression to a box and a mask (Section 3.4)."""

from typing import Literal

import torch
from torch import Tensor

from pixel_llm.core.pixel_llm import PixelLLM
from pixel_llm.losses import MaskLoss, location_distance, mask_loss, masked_mean
from pixel_llm.structures import Batch, ImageFeatures, Localization, ReferringPrediction, Targets
from pixel_llm.tasks.masks import mask_rles, real_part
from pixel_llm.tasks.optimizer import AdamWSchedule
from pixel_llm.tasks.referring import Referring, predictions
from pixel_llm.weights.start import StartingWeights


class ReferringLocalization(Referring):
    """Regresses the box of what an expression names, and with `segment` its mask.

    location_weight: lambda, on the L1 distance of the two corners in pixels of the canvas; the words of the query are
        given, they have no loss.
    segment: also make masks, with SAM's loss; the core needs a mask head.
    mask_box: what the mask decoder is prompted with in training, the "predicted" box (published) or the "true" one.
    frozen: parts of the core that do not train, by their names; the published second stage trains the mask adapter
        and the location head alone.
    """

    def __init__(
        self,
        core: PixelLLM,
        optimizer: AdamWSchedule,
        weights: StartingWeights | None = None,
        location_weight: float = 0.1,
        segment: bool = False,
        mask_box: Literal["predicted", "true"] = "predicted",
        frozen: list[str] = [],  # noqa: B006
    ) -> None:
        super().__init__(core, optimizer, weights)
        if segment and core.mask_head is None:
            raise ValueError("segment: true needs a core with a mask head: set its mask_adapter")
        self.location_weight, self.segment, self.mask_box = location_weight, segment, mask_box
        for name in frozen:
            part(core, name).requires_grad_(False)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit" and self.segment and not any(source.masks for source in self.sources):
            raise ValueError("segment: true needs masks to learn from: set masks: true in the data")

    def objective(self, features: ImageFeatures, batch: Batch, stage: str) -> Tensor:
        targets, index = batch.targets, batch.prompts.image_index
        assert targets is not None
        found = self.core.locate(features, batch.prompts, targets.tokens)
        truth, known = true_corners(targets)
        distance = location_distance(found.corners[:, None], truth[:, None], batch.sizes[index].flip(-1))[:, 0]
        box = masked_mean(distance, known)
        values = {"loss": self.location_weight * box, "box_px": box.detach()}
        if self.segment and (batch.masks is not None or self.training):
            boxes = found.boxes if self.mask_box == "predicted" else truth.flatten(1)
            mask = self._mask_loss(features, batch, found, boxes, known)
            values["loss"] = values["loss"] + mask.total
            values |= {"focal": mask.focal, "dice": mask.dice, "iou_error": mask.iou}
        self.log_losses(values, stage, len(batch.keys))
        return values["loss"]

    def _mask_loss(
        self, features: ImageFeatures, batch: Batch, found: Localization, boxes: Tensor, known: Tensor
    ) -> MaskLoss:
        """boxes: float[P, 4] in [0, 1], what the mask decoder is prompted with.  known: bool[P], has one target."""
        masks = batch.masks
        if masks is None:  # all processes must take part, also one whose batch has no mask
            masks = known.new_zeros(len(known), *batch.images.shape[-2:])
        logits, iou = self.core.segment(features, batch.prompts, found, boxes)
        real = real_part(batch.sizes[batch.prompts.image_index], masks.shape[-2:])
        return mask_loss(logits, iou, masks, known & masks.flatten(1).any(1), real)

    def answer(self, features: ImageFeatures, batch: Batch) -> list[ReferringPrediction]:
        assert batch.targets is not None
        found = self.core.locate(features, batch.prompts, batch.targets.tokens)
        if not self.segment:
            return predictions(found.boxes, None, None, batch)
        masks, iou = self._masks(features, batch, found)
        return predictions(found.boxes, masks, iou, batch)

    def _masks(self, features: ImageFeatures, batch: Batch, found: Localization) -> tuple[list[dict], Tensor]:
        index = batch.prompts.image_index
        logits, iou = self.core.segment(features, batch.prompts, found, found.boxes)
        sizes, original = batch.sizes[index], batch.original_sizes[index]
        return mask_rles(logits, sizes, original, features.canvas), iou[:, 0]


def true_corners(targets: Targets) -> tuple[Tensor, Tensor]:
    """The box that stands at the </s> of each query: corners float[P, 2, 2], and bool[P], whether it has one."""
    located = targets.located
    return torch.where(located[..., None, None], targets.locations, 0.0).sum(1), located.any(1)


def part(core: PixelLLM, name: str) -> torch.nn.Module:
    """A part of the core by its name; ValueError with one line where there is none."""
    try:
        return core.get_submodule(name)
    except AttributeError:
        raise ValueError(f"frozen: the core has no part {name!r}") from None
