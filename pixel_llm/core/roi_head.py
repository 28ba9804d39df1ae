"""The second stage of a detector: each proposed box is judged and corrected by the features inside it."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import box_iou, roi_align

CELLS = 7  # of a box, along each side
_SAMPLES = 2  # points of a cell, along each side
_CANONICAL_LEVEL, _CANONICAL_SIDE = 4, 224  # a box of 224 pixels is read off the level of stride 2^4 (Lin et al. 2017)
_DELTA_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
_MAX_LOG_SCALE = math.log(1000 / 16)


class RoIHead(nn.Module):
    """width: channels of the pyramid.  hidden: widths of the two layers before the outputs."""

    def __init__(self, width: int = 256, hidden: Sequence[int] = (1024, 1024)) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width * CELLS**2, hidden[0])
        self.fc2 = nn.Linear(hidden[0], hidden[1])
        self.cls_score = nn.Linear(hidden[1], 2)
        self.bbox_pred = nn.Linear(hidden[1], 4)
        nn.init.normal_(self.cls_score.weight, std=0.01)
        nn.init.normal_(self.bbox_pred.weight, std=0.001)
        nn.init.zeros_(self.cls_score.bias)
        nn.init.zeros_(self.bbox_pred.bias)

    def forward(
        self, pyramid: Sequence[Tensor], strides: Tensor, boxes: Tensor, image_index: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Logits of background and object, float[R, 2], and corrections, float[R, 4], of R boxes; see `align`."""
        hidden = F.relu(self.fc1(align(pyramid, strides, boxes, image_index).flatten(1)))
        hidden = F.relu(self.fc2(hidden))
        return self.cls_score(hidden).float(), self.bbox_pred(hidden).float()


def align(pyramid: Sequence[Tensor], strides: Tensor, boxes: Tensor, image_index: Tensor) -> Tensor:
    """The features inside each box, float[R, D, 7, 7], from the level that suits its size.

    pyramid: L maps float[B, D, h, w].  strides: float[L, 2], width and height of a level's cells in pixels.
    boxes: float[R, 4] in pixels of the canvas.  image_index: int[R].
    Beyond the border of a map all is zero, as published; torchvision alone would repeat the border.
    """
    levels = choose_level(boxes, strides)
    aligned = boxes.new_zeros(len(boxes), pyramid[0].shape[1], CELLS, CELLS)
    for number, (features, stride) in enumerate(zip(pyramid, strides, strict=True)):
        rows = (levels == number).nonzero()[:, 0]
        padded = F.pad(features.float(), (1, 1, 1, 1))
        cells = boxes[rows] / stride.repeat(2) + 1
        rois = torch.cat([image_index[rows, None].to(cells.dtype), cells], dim=1)
        aligned = aligned.index_copy(0, rows, roi_align(padded, rois, CELLS, 1.0, _SAMPLES, aligned=True))
    return aligned


def choose_level(boxes: Tensor, strides: Tensor) -> Tensor:
    """int[R]: the level (0 the finest) that boxes in pixels are read off, by their area (Lin et al. 2017)."""
    first = strides[0].log2().mean().round()
    side = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).clamp(min=0).sqrt()
    level = (_CANONICAL_LEVEL + (side / _CANONICAL_SIDE + 1e-8).log2()).floor()
    return (level - first).clamp(0, len(strides) - 1).long()


def match_boxes(boxes: Tensor, true: Tensor, iou: float) -> Tensor:
    """int[R]: for each of float[R, 4] the row of the true box that it meets best; -1 below this IoU, or without any."""
    if len(true) == 0:
        return torch.full((len(boxes),), -1, device=boxes.device)
    best, rows = box_iou(boxes, true).max(dim=1)
    return torch.where(best >= iou, rows, -1)


def encode_boxes(boxes: Tensor, anchors: Tensor) -> Tensor:
    """The corrections float[R, 4] (dx, dy, dw, dh, weighted) that turn anchors into boxes; all of them have an area."""
    center, size = _center_and_size(boxes)
    anchor_center, anchor_size = _center_and_size(anchors)
    deltas = torch.cat([(center - anchor_center) / anchor_size, (size / anchor_size).log()], dim=-1)
    return deltas * deltas.new_tensor(_DELTA_WEIGHTS)


def decode_boxes(deltas: Tensor, anchors: Tensor) -> Tensor:
    """Anchors corrected, float[R, 4]; no side grows more than 62.5 times."""
    shift, log_scale = (deltas / deltas.new_tensor(_DELTA_WEIGHTS)).chunk(2, dim=-1)
    center, size = _center_and_size(anchors)
    center = center + shift * size
    half = log_scale.clamp(max=_MAX_LOG_SCALE).exp() * size / 2
    return torch.cat([center - half, center + half], dim=-1)


def _center_and_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    low, high = boxes.chunk(2, dim=-1)
    return (low + high) / 2, high - low
