"""Simple feature pyramid: maps of several resolutions from the one map of a plain encoder (Li et al. 2022)."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from pixel_llm.core.layers import LayerNorm2d


class SimpleFeaturePyramid(nn.Module):
    """float[B, D, H, W] -> maps float[B, width, h, w] from fine to coarse; the defaults are the published ones.

    channels: D.  width: channels of every level.
    scales: size of each level against the given map, from fine to coarse: 2, 1 or 0.5.
    upsampled_width: channels of the enlarged map before it is brought to `width`.
    extra_levels: coarser levels behind those, each half the one before.
    """

    def __init__(
        self,
        channels: int,
        width: int = 256,
        scales: Sequence[float] = (2.0, 1.0, 0.5),
        upsampled_width: int = 384,
        extra_levels: int = 2,
    ) -> None:
        super().__init__()
        if set(scales) - {2.0, 1.0, 0.5} or list(scales) != sorted(scales, reverse=True):
            raise ValueError(f"scales are 2, 1 or 0.5, from fine to coarse, not {list(scales)}")
        self.levels = nn.ModuleList(_Level(channels, width, scale, upsampled_width) for scale in scales)
        self.extra = nn.ModuleList(nn.Conv2d(width, width, 3, stride=2, padding=1) for _ in range(extra_levels))

    def forward(self, features: Tensor) -> list[Tensor]:
        maps = [level(features) for level in self.levels]
        for number, convolution in enumerate(self.extra):
            maps.append(convolution(F.relu(maps[-1]) if number else maps[-1]))
        return maps


class _Level(nn.Module):
    """Resample, then a 1x1 and a 3x3 convolution, each with a norm and without an activation."""

    def __init__(self, channels: int, width: int, scale: float, upsampled_width: int) -> None:
        super().__init__()
        self.resample: nn.Module = nn.Identity()
        if scale == 2:
            self.resample = nn.ConvTranspose2d(channels, upsampled_width, 2, stride=2)
            channels = upsampled_width
        elif scale == 0.5:
            self.resample = nn.MaxPool2d(2)
        self.reduce = nn.Conv2d(channels, width, 1, bias=False)
        self.reduce_norm = LayerNorm2d(width)
        self.smooth = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.smooth_norm = LayerNorm2d(width)

    def forward(self, features: Tensor) -> Tensor:
        reduced = self.reduce_norm(self.reduce(self.resample(features)))
        return self.smooth_norm(self.smooth(reduced))
