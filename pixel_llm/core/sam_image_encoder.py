"""SAM's image encoder: ViT with windowed attention and relative positions (Kirillov et al. 2023).

Modules and parameters are named as in segment-anything, so official files load by name. Other canvas sizes
than the pretrained one are allowed: position tables are resampled with antialiasing, as the published
PixelLLM does.

Attention adds q·R_h[Δy] + q·R_w[Δx] to every logit (Li et al. 2022, MViTv2, eq. 4). That bias of tokens x tokens is
built part by part, right before a fused kernel reads it; as a whole it would take 0.8 GB for ViT-B at 1024 pixels.
"""

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixel_llm.core.image_encoder import IMAGENET_MEAN, IMAGENET_STD, ImageEncoder
from pixel_llm.core.layers import FeedForward, LayerNorm2d, StochasticDepth
from pixel_llm.core.resize import resize_map, resize_table

# entries of the bias that are built at once: what a CPU keeps in its cache, what a GPU needs to be busy
_CPU_PART, _GPU_PART = 2**21, 2**27


class SamImageEncoder(ImageEncoder):
    """SAM's ViT; float[B, 3, H, W] -> float[B, output_channels, H / patch, W / patch].

    image_size: side of the canvas that the position tables are stored for; the input may have another size, of
        which the patch grid takes as many whole patches as fit.
    global_blocks: indices of the blocks that attend to the whole image; the others to windows of `window` patches.
    drop_path: stochastic depth, growing linearly to this rate at the last block. It is active in training even where
        the encoder is frozen: the published PixelLLM trained so (with 0.5). 0 is what one would expect.
    """

    def __init__(
        self,
        *,
        width: int,
        depth: int,
        heads: int,
        global_blocks: Sequence[int],
        image_size: int = 1024,
        patch: int = 16,
        window: int = 14,
        mlp_ratio: float = 4.0,
        output_channels: int = 256,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__(channels=output_channels, mean=IMAGENET_MEAN, std=IMAGENET_STD)
        grid = image_size // patch
        self.patch_embed = PatchEmbedding(width, patch)
        self.pos_embed = nn.Parameter(torch.zeros(1, grid, grid, width))
        self.blocks = nn.ModuleList(
            Block(
                width=width,
                heads=heads,
                hidden=int(width * mlp_ratio),
                grid=grid,
                window=0 if index in global_blocks else window,
                drop_path=drop_path * index / max(depth - 1, 1),
            )
            for index in range(depth)
        )
        self.neck = nn.Sequential(
            nn.Conv2d(width, output_channels, 1, bias=False),
            LayerNorm2d(output_channels),
            nn.Conv2d(output_channels, output_channels, 3, padding=1, bias=False),
            LayerNorm2d(output_channels),
        )

    def encode(self, pixels: Tensor) -> Tensor:
        tokens = self.patch_embed(pixels)
        tokens = tokens + self.position_table((tokens.shape[1], tokens.shape[2]))
        for block in self.blocks:
            tokens = block(tokens)
        return self.neck(tokens.permute(0, 3, 1, 2))

    def position_table(self, grid: tuple[int, int]) -> Tensor:
        """float[1, h, w, D], the absolute position table for a grid of (h, w)."""
        return resize_map(self.pos_embed.permute(0, 3, 1, 2), grid).permute(0, 2, 3, 1)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for module in self.modules():
            if isinstance(module, StochasticDepth):
                module.train(mode)
        return self


class PatchEmbedding(nn.Module):
    """float[B, 3, H, W] -> float[B, h, w, D], one vector per patch."""

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, stride=patch)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.proj(pixels).permute(0, 2, 3, 1)


class Block(nn.Module):
    """Pre-norm transformer block on float[B, h, w, D]; window 0 attends to the whole grid."""

    def __init__(self, *, width: int, heads: int, hidden: int, grid: int, window: int, drop_path: float) -> None:
        super().__init__()
        self.window = window
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = RelativePositionAttention(width, heads, window or grid)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = FeedForward(width, hidden)
        self.drop_path = StochasticDepth(drop_path)

    def forward(self, tokens: Tensor) -> Tensor:
        attended = self.norm1(tokens)
        if self.window:
            windows = split_windows(attended, self.window)
            attended = join_windows(self.attn(windows), (tokens.shape[1], tokens.shape[2]))
        else:
            attended = self.attn(attended)
        tokens = tokens + self.drop_path(attended)
        return tokens + self.drop_path(self.mlp(self.norm2(tokens)))


class RelativePositionAttention(nn.Module):
    """Self-attention over a grid with decomposed relative positions; float[B, h, w, D] -> the same shape.

    side: height and width of the grid that the relative position tables are stored for.
    """

    def __init__(self, width: int, heads: int, side: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * side - 1, width // heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * side - 1, width // heads))

    def forward(self, tokens: Tensor) -> Tensor:
        batch, height, width, _ = tokens.shape
        qkv = self.qkv(tokens).view(batch, height, width, 3, self.heads, -1)
        query, key, value = qkv.permute(3, 0, 4, 1, 2, 5).flatten(1, 2)  # each (B * heads, h, w, d)
        along_y = torch.einsum("nyxd,ykd->nyxk", query, relative_table(self.rel_pos_h, height))
        along_x = torch.einsum("nyxd,xkd->nyxk", query, relative_table(self.rel_pos_w, width))
        attended = attend_in_parts(query, key, value, along_y, along_x)
        return self.proj(attended.unflatten(0, (batch, self.heads)).permute(0, 2, 3, 1, 4).flatten(3))


def attend_in_parts(query: Tensor, key: Tensor, value: Tensor, along_y: Tensor, along_x: Tensor) -> Tensor:
    """Attention within N grids, float[N, h, w, d] each, with a decomposed bias; float[N, h, w, d].

    along_y: float[N, h, w, h], what each cell adds to the logits of every row of cells.
    along_x: float[N, h, w, w], the same for every column.
    """
    _, height, width, _ = query.shape
    row = width * height * width  # entries of the bias for one row of cells
    part = _CPU_PART if query.device.type == "cpu" else _GPU_PART
    rows = max(1, min(height, part // row))
    grids = max(1, part // (rows * row))
    attended = []
    inputs = (values.split(grids) for values in (query, key, value, along_y, along_x))
    for queries, keys, values, ys, xs in zip(*inputs, strict=True):
        strips = zip(*(values.split(rows, dim=1) for values in (queries, ys, xs)), strict=True)
        strip_outputs = [attend_with_bias(q, keys, values, y, x) for q, y, x in strips]
        attended.append(torch.cat(strip_outputs, dim=1))
    return torch.cat(attended)


def attend_with_bias(query: Tensor, key: Tensor, value: Tensor, along_y: Tensor, along_x: Tensor) -> Tensor:
    """The same for a strip of the queries' rows, with the whole bias at once."""
    bias = (along_y[..., :, None] + along_x[..., None, :]).flatten(3).flatten(1, 2)
    queries, keys, values = (part.flatten(1, 2)[None] for part in (query, key, value))  # kernels want four axes
    attended = F.scaled_dot_product_attention(queries, keys, values, attn_mask=bias[None])
    return attended[0].unflatten(1, query.shape[1:3])


def relative_table(table: Tensor, side: int) -> Tensor:
    """float[L, d] stored by offset -> float[side, side, d], row i column j for query at i and key at j."""
    table = resize_table(table, 2 * side - 1)
    positions = torch.arange(side, device=table.device)
    return table[positions[:, None] - positions + side - 1]


def split_windows(tokens: Tensor, window: int) -> Tensor:
    """float[B, h, w, D] -> float[B * windows, window, window, D]; zeros fill up the bottom and the right."""
    batch, height, width, channels = tokens.shape
    tokens = F.pad(tokens, (0, 0, 0, -width % window, 0, -height % window))
    tokens = tokens.view(batch, tokens.shape[1] // window, window, -1, window, channels)
    return tokens.transpose(2, 3).reshape(-1, window, window, channels)


def join_windows(windows: Tensor, grid: tuple[int, int]) -> Tensor:
    """Undo `split_windows` for a grid of (h, w)."""
    height, width = grid
    window, channels = windows.shape[1], windows.shape[-1]
    down, across = -(-height // window), -(-width // window)
    tokens = windows.view(-1, down, across, window, window, channels).transpose(2, 3)
    return tokens.reshape(-1, down * window, across * window, channels)[:, :height, :width]
