"""The location head: reads the place of a word from the language model's state (Section 3.2).

A location can be represented in three ways: regressed coordinates (here, the paper's choice), coordinate bins as
extra words, and coordinates spelled out as text. What they share is small: states float[..., D] go in, xy
points in [0, 1] float[..., points, 2] come out.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixel_llm.core.layers import MLP, start_lecun_normal


class LocationHead(nn.Module):
    """Regression: LayerNorm and an MLP with exact GELU; `depth` linear layers, the hidden ones `hidden` wide.

    points: points per word; two are the corners of its box.
    extra_channels: further outputs per point that published checkpoints hold; nothing reads them.
    """

    def __init__(
        self, *, width: int, hidden: int = 512, depth: int = 4, points: int = 2, extra_channels: int = 0
    ) -> None:
        super().__init__()
        self.points = points
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.mlp = MLP(width, hidden, points * (2 + extra_channels), depth, F.gelu).apply(start_lecun_normal)

    def forward(self, hidden: Tensor) -> Tensor:
        """float[..., D] -> float[..., points, 2], xy in [0, 1] of the real image extent; not clipped."""
        # the 8 bits of bfloat16 would be 4 pixels on a canvas of 1024
        with torch.autocast(hidden.device.type, enabled=False):
            raw = self.mlp(self.norm(hidden.to(next(self.parameters()).dtype))).unflatten(-1, (self.points, -1))
            return (raw[..., :2] + 1) / 2
