"""Mask logits on a padded canvas into masks at the size of the original image, and those into run lengths."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pixel_llm.run_lengths import encoded


def mask_rles(logits: Tensor, sizes: Tensor, original_sizes: Tensor, canvas: tuple[int, int]) -> list[dict[str, Any]]:
    """COCO's compressed run-length encoding of each mask, `counts` as text; arguments as in `original_masks`."""
    return [encoded(mask.numpy()) for mask in original_masks(logits, sizes, original_sizes, canvas)]


def original_masks(
    logits: Tensor, sizes: Tensor, original_sizes: Tensor, canvas: tuple[int, int]
) -> Iterator[Tensor]:
    """One mask at a time, bool[H, W] on the CPU: logits are resized bilinearly, then those above 0 count.

    logits: float[P, 1, h, w], spread over the whole canvas of (height, width).
    sizes: [P, 2], height and width of the real part of each prompt's canvas; what lies beyond is cut off, also
        where that is in the middle of a cell.
    original_sizes: int[P, 2], height and width of the image as it came.
    """
    logits = logits[:, 0].float().cpu()
    extents = sizes.cpu() * torch.tensor(logits.shape[-2:]) / torch.tensor(canvas)
    for values, extent, size in zip(logits, extents.tolist(), original_sizes.tolist(), strict=True):
        yield _stretch(_stretch(values, 0, extent[0], size[0]), 1, extent[1], size[1]) > 0


def _stretch(values: Tensor, dim: int, extent: float, length: int) -> Tensor:
    """Resize the first `extent` cells of a dimension to `length`; linear between the centres of cells."""
    places = ((torch.arange(length) + 0.5) * (extent / length) - 0.5).clamp(0, max(extent - 1, 0))
    before = places.long()
    after = (before + 1).clamp(max=values.shape[dim] - 1)
    weights = (places - before).unflatten(0, (-1, 1) if dim == 0 else (1, -1))
    return torch.lerp(values.index_select(dim, before), values.index_select(dim, after), weights)


def real_part(sizes: Tensor, canvas: torch.Size) -> Tensor:
    """bool[P, H, W]: pixels of the canvas inside sizes, int[P, 2] of height and width."""
    rows = torch.arange(canvas[0], device=sizes.device) < sizes[:, :1]
    columns = torch.arange(canvas[1], device=sizes.device) < sizes[:, 1:]
    return rows[:, :, None] & columns[:, None, :]
