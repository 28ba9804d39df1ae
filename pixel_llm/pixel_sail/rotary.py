"""Rotary positions with three axes: time, row, column.

The first d/4 of a head's d/2 pairs, which turn fast, turn by the row, the others by the column; time has no pairs
(sections 0, d/4, d/4). Text has one index on all axes, and then these are the usual rotary positions:

    pair of a head with d = 8     0             1             2             3
    angle of row r, column c      r             r base^-1/4   c base^-1/2   c base^-3/4
    angle of text position t      t             t base^-1/4   t base^-1/2   t base^-3/4

A pair is made of the dimensions i and i + d/2, as in transformers.
"""

from typing import Any

import torch
from torch import Tensor, nn

ROW, COLUMN = 1, 2  # axes of positions


class RotaryPositions(nn.Module):
    """The angles of positions.

    frequencies: float[d/2], by which one step of a position turns each pair.  scale: of what is turned, 1 but in
        some ways of reading texts longer than those of training.
    """

    frequencies: Tensor
    axes: Tensor

    def __init__(self, frequencies: Tensor, scale: float = 1.0) -> None:
        super().__init__()
        pairs = len(frequencies)
        if pairs % 2:
            raise ValueError(f"a head has {2 * pairs} dimensions, which do not go into 4 for the sections of positions")
        self.register_buffer("frequencies", frequencies.float(), persistent=False)
        self.register_buffer("axes", torch.tensor([ROW, COLUMN]).repeat_interleave(pairs // 2), persistent=False)
        self.scale = scale

    @classmethod
    def of_base(cls, head_width: int, base: float) -> "RotaryPositions":
        return cls(base ** -(torch.arange(0, head_width, 2) / head_width))

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """int[N, L, 3] -> cosine and sine of each dimension's angle, times `scale`, float32[N, L, d] each."""
        with torch.autocast(positions.device.type, enabled=False):
            angles = (positions[..., self.axes].float() * self.frequencies.float()).repeat(1, 1, 2)
            return angles.cos() * self.scale, angles.sin() * self.scale


def rotate(values: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """float[N, heads, L, d], turned by the cosine and sine (float[N, L, d] each) of their positions' angles."""
    cosine, sine = (part[:, None].to(values.dtype) for part in angles)
    return _Turn.apply(values, cosine, sine)


class _Turn(torch.autograd.Function):
    """Written out since autograd would keep and pass over four copies of the values."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        ctx.save_for_backward(cosine, sine)
        return _turned(values, cosine, sine)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        cosine, sine = ctx.saved_tensors
        return _turned(gradients[0], cosine, -sine), None, None


def _turned(values: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    (first, second), (one, other), turned = values.chunk(2, -1), sine.chunk(2, -1), values * cosine
    turned[..., : first.shape[-1]].addcmul_(second, one, value=-1)
    turned[..., first.shape[-1] :].addcmul_(first, other)
    return turned
