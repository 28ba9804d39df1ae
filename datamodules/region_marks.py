"""How a region is marked in an image for a model that is asked about it: all its pixels, its filled box, or a click."""

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.instances import mask_in_view
from datamodules.views import View

Mark = Literal["mask", "box", "click"]


def region_mark(
    mark: Mark, box: tuple[float, float, float, float], rle: dict[str, Any] | None, view: View,
    rng: np.random.Generator | None = None,
) -> Tensor:  # fmt: skip
    """bool[h, w] over the view's pixels, of which at least one is set.

    box: x0 y0 x1 y1 in the view's [0, 1].  rle: the mask of the whole image, where there is one; a region without a
        mask, or of which no pixel is left in the view, is its filled box.
    rng: a click falls anywhere well inside the region; None: onto the pixel farthest from its border.
    """
    filled = filled_box(box, (view.pixels.shape[-2], view.pixels.shape[-1]))
    if mark == "box":
        return filled
    mask = mask_in_view(rle, view) if rle is not None else filled
    mask = mask if mask.any() else filled
    return mask if mark == "mask" else click(mask, rng)


def filled_box(box: tuple[float, float, float, float], shape: tuple[int, int]) -> Tensor:
    """bool[h, w]: every pixel that a box x0 y0 x1 y1 in [0, 1] touches, at least one."""
    height, width = shape
    x0, x1 = _pixels(box[0], box[2], width)
    y0, y1 = _pixels(box[1], box[3], height)
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[y0:y1, x0:x1] = True
    return mask


def _pixels(low: float, high: float, side: int) -> tuple[int, int]:
    first = min(max(int(np.floor(low * side + 1e-6)), 0), side - 1)
    return first, min(max(int(np.ceil(high * side - 1e-6)), first + 1), side)


def click(mask: Tensor, rng: np.random.Generator | None) -> Tensor:
    """bool[h, w] with one pixel of a mask that has any, away from its border."""
    depth = _depth(mask.numpy())
    if rng is None:
        row, column = np.unravel_index(depth.argmax(), depth.shape)
    else:
        inside = np.argwhere(depth * 2 >= depth.max())
        row, column = inside[rng.integers(len(inside))]
    clicked = torch.zeros_like(mask)
    clicked[int(row), int(column)] = True
    return clicked


def _depth(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """int[h, w]: steps to the nearest pixel that is not of the mask, or beyond the view; 0 outside of the mask."""
    depth = np.where(np.pad(mask, 1), sum(mask.shape), 0)
    for axis in (0, 1):
        steps = np.expand_dims(np.arange(depth.shape[axis]), 1 - axis)
        from_start = np.minimum.accumulate(depth - steps, axis) + steps
        from_end = np.flip(np.minimum.accumulate(np.flip(depth + steps, axis), axis), axis) - steps
        depth = np.minimum(from_start, from_end)
    return depth[1:-1, 1:-1]
