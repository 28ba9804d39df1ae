"""CenterNet's head (Zhou et al. 2019, 2021): objects of any class as the cells at their centres.

Every cell of every level of a pyramid says whether it is the centre of an object and how far away the object's four
sides are. One head is shared by all levels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class CenterNetHead(nn.Module):
    """width: channels of the maps.  levels: how many there are.  depth: convolutions before the two outputs.

    norm_groups: groups of the norms between the convolutions; a divisor of `width`.
    """

    def __init__(self, width: int = 256, levels: int = 5, depth: int = 4, norm_groups: int = 32) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        for _ in range(depth):
            blocks += [_convolution(width, width), nn.GroupNorm(norm_groups, width, eps=1e-6), nn.ReLU()]
        self.tower = nn.Sequential(*blocks)
        self.heat_map = _convolution(width, 1, bias=-4.6)  # a cell starts as a centre with probability 0.01
        self.distances = _convolution(width, 4, bias=8.0)
        self.scales = nn.Parameter(torch.ones(levels))

    def forward(self, pyramid: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """L maps float[B, D, h, w] -> heat map logits float[B, N] and distances float[B, N, 4] >= 0, in strides.

        The N cells go level by level and row by row, as in `cell_grid`.
        """
        heat_maps, distances = [], []
        for features, scale in zip(pyramid, self.scales, strict=True):
            features = self.tower(features)
            heat_maps.append(self.heat_map(features).flatten(1))
            distances.append(F.relu(scale * self.distances(features)).flatten(2).transpose(1, 2))
        return torch.cat(heat_maps, dim=1).float(), torch.cat(distances, dim=1).float()


def _convolution(channels: int, outputs: int, bias: float = 0.0) -> nn.Conv2d:
    layer = nn.Conv2d(channels, outputs, 3, padding=1)
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.constant_(layer.bias, bias)  # type: ignore[arg-type]
    return layer


def cell_grid(pyramid: Sequence[Tensor], strides: Tensor) -> tuple[Tensor, Tensor]:
    """The middles of all cells, float[N, 2] xy in pixels, and their levels, int[N]; strides: float[L, 2] of a level."""
    centers, levels = [], []
    for number, (features, stride) in enumerate(zip(pyramid, strides, strict=True)):
        height, width = features.shape[-2:]
        rows = torch.arange(height, device=strides.device)
        columns = torch.arange(width, device=strides.device)
        cells = torch.cartesian_prod(rows, columns).flip(-1)
        centers.append((cells + 0.5) * stride)
        levels.append(torch.full((height * width,), number, device=strides.device))
    return torch.cat(centers), torch.cat(levels)


def decode_distances(centers: Tensor, distances: Tensor, strides: Tensor) -> Tensor:
    """Boxes float[..., 4] in pixels from centres float[..., 2], distances float[..., 4] and strides float[..., 2]."""
    return torch.cat([centers - distances[..., :2] * strides, centers + distances[..., 2:] * strides], dim=-1)
