"""The losses of a detector: CenterNet's heat map and boxes, and those of a second stage (Zhou et al. 2021).

As in `pixel_llm.losses`, what a sum is divided by is counted over all processes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import generalized_box_iou_loss

from pixel_llm.coordinates import boxes_01_to_canvas_px
from pixel_llm.losses import mean_count
from pixel_llm.structures import DetectorOutputs, Regions, RoISamples

HEAT_MAP_WEIGHT = 0.5
_OVERLAP = 0.8  # a centre may move so far that its box keeps about this IoU
_DELTA = (1 - _OVERLAP) / (1 + _OVERLAP)
_MIN_RADIUS = 4.0  # of a peak, in pixels
_ALPHA, _GAMMA, _BETA = 0.25, 2, 4
_CLIP = 1e-4


@dataclass
class DetectionLoss:
    """total is differentiable; the others are its terms before weighting.

    heat_map: focal loss of the centres.  box: generalised IoU loss of the cells around them.
    roi_class, roi_box: cross entropy and L1 distance of the second stage; 0 without it.
    """

    total: Tensor
    heat_map: Tensor
    box: Tensor
    roi_class: Tensor
    roi_box: Tensor

    def parts(self) -> dict[str, Tensor]:
        """The terms by name, for a log."""
        return {name: getattr(self, name) for name in ("heat_map", "box", "roi_class", "roi_box")}


@dataclass
class CenterTargets:
    """What CenterNet should say at N cells of B images.

    heat_map: float[B, N] in [0, 1].  peak: bool[B, N], the cells that hold the centre of an object of their level.
    distances: float[B, N, 4], left, top, right and bottom in strides; defined where `inside`.
    inside: bool[B, N], the cells that should know the sides of an object.
    """

    heat_map: Tensor
    peak: Tensor
    distances: Tensor
    inside: Tensor


def detection_loss(outputs: DetectorOutputs, samples: RoISamples | None, truth: Regions) -> DetectionLoss:
    """All terms of a batch; images without a true box have those of the background alone.

    samples: of the second stage; None, or samples without its outputs, leave its terms out.
    """
    targets = center_targets(outputs, truth)
    heat_map = heat_map_loss(outputs.heat_map, targets)
    box = distance_loss(outputs.distances, targets)
    roi_class, roi_box = roi_loss(samples) if samples is not None else (torch.zeros_like(box), torch.zeros_like(box))
    total = HEAT_MAP_WEIGHT * heat_map + box + roi_class + roi_box
    return DetectionLoss(total, heat_map.detach(), box.detach(), roi_class.detach(), roi_box.detach())


@torch.no_grad()
def center_targets(outputs: DetectorOutputs, truth: Regions) -> CenterTargets:
    """The targets of all cells; a true box without an area is none."""
    boxes, valid = _per_image(outputs, truth)
    centers, cell = outputs.centers, outputs.strides[outputs.levels]
    middle = (boxes[..., :2] + boxes[..., 2:]) / 2
    area = (boxes[..., 2:] - boxes[..., :2]).prod(-1)
    half_diagonal = (boxes[..., 2:] - boxes[..., :2]).square().sum(-1).sqrt() / 2
    ranges = outputs.level_ranges[outputs.levels]
    suits = (half_diagonal[..., None] >= ranges[:, 0]) & (half_diagonal[..., None] <= ranges[:, 1]) & valid[..., None]

    steps = (centers / cell).floor() - (middle[:, :, None] / cell).floor()  # [B, G, N, 2], in cells
    peaks = (steps == 0).all(-1) & suits
    distance = (centers - middle[:, :, None]).square().sum(-1)
    distance = distance / (2 * _DELTA**2 * area).clamp(min=_MIN_RADIUS**2)[..., None]
    distance = torch.where(peaks, 0.0, distance.clamp(min=1e-6)).masked_fill(~valid[..., None], torch.inf)

    sides = torch.cat([centers - boxes[:, :, None, :2], boxes[:, :, None, 2:] - centers], dim=-1)
    around = (steps.abs() <= 1).all(-1) & (sides.amin(-1) > 0) & suits
    nearest = distance.masked_fill(~around, torch.inf).argmin(dim=1, keepdim=True)
    sides = sides.gather(1, nearest[..., None].expand(-1, -1, -1, 4))[:, 0]
    return CenterTargets(
        heat_map=(-distance.amin(dim=1)).exp(),
        peak=peaks.any(dim=1),
        distances=sides / cell.repeat(1, 2),
        inside=around.any(dim=1),
    )


def heat_map_loss(logits: Tensor, targets: CenterTargets) -> Tensor:
    """CenterNet's focal loss of float[B, N], over the number of centres, at least one an image."""
    probability = logits.sigmoid().clamp(_CLIP, 1 - _CLIP)
    centers = _ALPHA * (1 - probability) ** _GAMMA * probability.log()
    others = (1 - _ALPHA) * (1 - targets.heat_map) ** _BETA * probability**_GAMMA * (1 - probability).log()
    count = mean_count(targets.peak.sum(1).clamp(min=1))
    return -torch.where(targets.peak, centers, others).sum() / count


def distance_loss(distances: Tensor, targets: CenterTargets) -> Tensor:
    """Generalised IoU loss of the boxes that float[B, N, 4] span, over the number of cells, at least one an image."""
    outwards = distances.new_tensor([-1.0, -1.0, 1.0, 1.0])
    predicted, wanted = (values[targets.inside] * outwards for values in (distances, targets.distances))
    count = mean_count(targets.inside.sum(1).clamp(min=1))
    return generalized_box_iou_loss(predicted, wanted, reduction="sum") / count


def roi_loss(samples: RoISamples) -> tuple[Tensor, Tensor]:
    """Cross entropy and L1 distance of the second stage, over the number of samples; 0 where it was left out."""
    if samples.class_logits is None or samples.deltas is None or samples.target_deltas is None:
        nothing = samples.boxes.new_zeros(())
        return nothing, nothing
    positive = samples.matched >= 0
    count = mean_count(torch.ones_like(positive))
    cross_entropy = F.cross_entropy(samples.class_logits, positive.long(), reduction="sum")
    distance = (samples.deltas[positive] - samples.target_deltas[positive]).abs().sum()
    return cross_entropy / count, distance / count


def _per_image(outputs: DetectorOutputs, truth: Regions) -> tuple[Tensor, Tensor]:
    """True boxes in pixels of the canvas, float[B, G, 4], padded to the most of an image, and which have an area."""
    pixels = boxes_01_to_canvas_px(truth.boxes.float(), outputs.sizes[truth.image_index])
    counts = truth.image_index.bincount(minlength=len(outputs.sizes))
    first = counts.cumsum(0) - counts
    place = torch.arange(len(pixels), device=pixels.device) - first[truth.image_index]
    boxes = pixels.new_zeros(len(counts), max(int(counts.max()), 1), 4)
    boxes[truth.image_index, place] = pixels
    return boxes, (boxes[..., 2:] > boxes[..., :2]).all(-1)
