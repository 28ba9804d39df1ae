"""The one place where coordinates change frame.

Three frames exist. `01`: normalised by the real extent of the image, the frame inside a batch. `canvas_px`:
pixels of the resized, zero-padded canvas that the encoders see. `original_px`: pixels of the image as it came,
the frame of files and people. Origin top left, x to the right, no rounding, no half-pixel shifts.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

Box = tuple[float, float, float, float]


def points_01_to_canvas_px(points: Tensor, sizes: Tensor) -> Tensor:
    """float[P, ..., 2] xy in [0, 1] -> the same in pixels of the canvas.

    sizes: int[P, 2], height and width of the real part of the canvas that each row lies on.
    """
    scale = sizes.flip(-1).to(points.dtype)
    return points * scale.view(len(sizes), *[1] * (points.dim() - 2), 2)


def boxes_01_to_canvas_px(boxes: Tensor, sizes: Tensor) -> Tensor:
    """float[P, 4] x0 y0 x1 y1 in [0, 1] -> the same in pixels of the canvas; sizes as above."""
    return points_01_to_canvas_px(boxes.unflatten(-1, (2, 2)), sizes).flatten(-2)


def boxes_canvas_px_to_01(boxes: Tensor, sizes: Tensor) -> Tensor:
    """float[P, 4] x0 y0 x1 y1 in pixels of the canvas -> [0, 1] of the real part, clipped to it; sizes as above."""
    scale = sizes.flip(-1).to(boxes.dtype)
    return (boxes.unflatten(-1, (2, 2)) / scale[:, None]).clamp(0, 1).flatten(-2)


def box_01_to_original_px(box: Sequence[float], original_size: Sequence[int]) -> Box:
    """x0 y0 x1 y1 in [0, 1] -> pixels of the original image of (height, width)."""
    height, width = (float(v) for v in original_size)
    return box[0] * width, box[1] * height, box[2] * width, box[3] * height


def box_original_px_to_01(box: Sequence[float], original_size: Sequence[int]) -> Box:
    """x0 y0 x1 y1 in pixels of the original image of (height, width) -> [0, 1]."""
    height, width = (float(v) for v in original_size)
    return box[0] / width, box[1] / height, box[2] / width, box[3] / height


def corners_to_box(corners: Tensor) -> Tensor:
    """float[..., 2, 2], two xy points in any order -> float[..., 4], x0 y0 x1 y1 of the box they span."""
    return torch.cat([corners.amin(-2), corners.amax(-2)], dim=-1)
