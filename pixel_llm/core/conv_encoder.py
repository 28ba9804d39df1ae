"""A small image encoder for small worlds: convolutional stem, fixed position code, transformer blocks.

It stands where EVA-02 stands in the large configurations and learns from scratch on a CPU.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from pixel_llm.core.image_encoder import CLIP_MEAN, CLIP_STD, ImageEncoder
from pixel_llm.core.layers import FeedForward, attend


class ConvEncoder(ImageEncoder):
    """float[B, 3, H, W] -> float[B, width, H / stride, W / stride].

    width: a multiple of 4 and of `heads`; the stem's widths double from stage to stage up to it.
    stride: a power of two; H and W are multiples of it.
    blocks: number of transformer blocks.
    """

    def __init__(self, *, width: int, stride: int = 8, blocks: int = 3, heads: int = 4) -> None:
        super().__init__(channels=width, mean=CLIP_MEAN, std=CLIP_STD)
        stages = int(math.log2(stride))
        if stages < 1 or 2**stages != stride:
            raise ValueError(f"stride must be a power of two above 1, got {stride}")
        if width % 4 or width % heads or width % 2 ** (stages - 1):
            raise ValueError(f"width {width} does not divide into {heads} heads and {stages} stem stages")
        widths = [width >> (stages - 1 - stage) for stage in range(stages)]
        layers: list[nn.Module] = [*convolution(3, widths[0], kernel=4, stride=2)]
        for before, after in pairwise(widths):
            layers += [*convolution(before, after, kernel=3, stride=2), *convolution(after, after, 3, 1)]
        self.stem = nn.Sequential(*layers)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)

    def encode(self, pixels: Tensor) -> Tensor:
        # oneDNN and cuDNN are faster on this layout, and it makes the step to tokens a view. Weights keep the plain
        # one: fused AdamW takes the moments in a checkpoint to be laid out as they are.
        features = self.stem(pixels.contiguous(memory_format=torch.channels_last))
        grid = (features.shape[-2], features.shape[-1])
        tokens = features.flatten(2).transpose(1, 2)
        tokens = tokens + position_code(grid, features.shape[1]).to(tokens)
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens).transpose(1, 2).unflatten(2, grid)


class Block(nn.Module):
    """Pre-norm transformer block on float[B, N, D]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = FeedForward(width, 4 * width)

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = self.qkv(self.norm1(tokens)).chunk(3, dim=-1)
        tokens = tokens + self.proj(attend(query, key, value, self.heads))
        return tokens + self.mlp(self.norm2(tokens))


def convolution(before: int, after: int, kernel: int, stride: int) -> tuple[nn.Module, nn.Module, nn.Module]:
    """A convolution that divides the side by `stride`, GroupNorm in groups of 8 channels (or one), ReLU."""
    groups = after // 8 if after % 8 == 0 else 1
    convolved = nn.Conv2d(before, after, kernel, stride, padding=1, bias=False)
    return convolved, nn.GroupNorm(groups, after), nn.ReLU()


def position_code(grid: tuple[int, int], width: int) -> Tensor:
    """float[h * w, width]: fixed sine-cosine code of the cell centres of a grid of (h, w), in [0, 1].

    A quarter of the width each for sin x, cos x, sin y, cos y, at angular frequencies from pi / 2 to 8 pi,
    evenly spaced in their logarithm.
    """
    frequencies = torch.logspace(math.log2(math.pi / 2), math.log2(8 * math.pi), width // 4, base=2)
    y, x = (((torch.arange(cells) + 0.5) / cells)[:, None] * frequencies for cells in grid)
    along_y = torch.cat([y.sin(), y.cos()], dim=-1)[:, None].expand(-1, grid[1], -1)
    along_x = torch.cat([x.sin(), x.cos()], dim=-1).expand(grid[0], -1, -1)
    return torch.cat([along_x, along_y], dim=-1).flatten(0, 1)
