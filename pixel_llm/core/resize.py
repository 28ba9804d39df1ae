"""Resampling of feature maps and position tables, antialiased as in the published (JAX) code.

`jax.image.resize` uses the cubic kernel with a = -0.5 and antialiases; torch does the same only with
`antialias=True`, also when enlarging (without it a = -0.75).
"""

from torch import Tensor
from torch.nn import functional as F


def resize_map(features: Tensor, grid: tuple[int, int]) -> Tensor:
    """Bicubic: float[B, D, h, w] -> float[B, D, *grid]; unchanged when it has that size already."""
    if features.shape[-2:] == grid:
        return features
    resized = F.interpolate(features.float(), size=grid, mode="bicubic", antialias=True)
    return resized.to(features.dtype)


def resize_table(table: Tensor, length: int) -> Tensor:
    """Linear: float[L, D] -> float[length, D]; unchanged when it has that length already."""
    if len(table) == length:
        return table
    size = (length, table.shape[1])
    resized = F.interpolate(table.float()[None, None], size=size, mode="bilinear", antialias=True)
    return resized[0, 0].to(table.dtype)
