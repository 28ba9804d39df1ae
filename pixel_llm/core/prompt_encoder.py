"""SAM's prompt encoder for points and boxes (Kirillov et al. 2023).

Parameters are named as in segment-anything. The branch that embeds mask prompts is left out: PixelLLM never
asks with a mask, so its entries in official files are not loaded.
"""

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixel_llm.coordinates import boxes_01_to_canvas_px, points_01_to_canvas_px
from pixel_llm.structures import ImageFeatures, Prompts

BACKGROUND, FOREGROUND, TOP_LEFT, BOTTOM_RIGHT = range(4)


class PromptEncoder(nn.Module):
    """Turns points and boxes in pixels of the canvas into tokens of `width` channels.

    padding_tokens: how many "no mask" embeddings follow the two corners of each box. 0 is SAM and the paper;
        the published code pads to the five tokens of its point prompts, that is 3.
    """

    def __init__(self, *, width: int = 256, padding_tokens: int = 0) -> None:
        super().__init__()
        self.padding_tokens = padding_tokens
        self.pe_layer = RandomFourierCode(width)
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, width) for _ in range(4))
        self.not_a_point_embed = nn.Embedding(1, width)
        self.no_mask_embed = nn.Embedding(1, width)

    @property
    def no_mask(self) -> Tensor:
        """float[1, E], the dense prompt: what is added to every image cell where no mask is given."""
        return self.no_mask_embed.weight

    def embed(self, prompts: Prompts, features: ImageFeatures) -> Tensor:
        """Tokens float[P, K, E] of prompts by boxes, or by clicks, which SAM ends with one that is none."""
        sizes = features.sizes[prompts.image_index]
        if prompts.points is None:
            return self.embed_boxes(boxes_01_to_canvas_px(prompts.boxes, sizes), features.canvas)
        assert prompts.point_labels is not None
        points = F.pad(points_01_to_canvas_px(prompts.points, sizes), (0, 0, 0, 1))
        labels = F.pad(prompts.point_labels, (0, 1), value=-1)
        return self.embed_points(points, labels, features.canvas)

    def embed_boxes(self, boxes: Tensor, canvas: tuple[int, int]) -> Tensor:
        """float[P, 4], x0 y0 x1 y1 in pixels of the canvas of (height, width) -> float[P, 2 + padding, E]."""
        codes = self._encode_pixels(boxes.unflatten(-1, (2, 2)) + 0.5, canvas)
        corners = codes + torch.cat([self._kind(TOP_LEFT), self._kind(BOTTOM_RIGHT)])
        return torch.cat([corners, self.no_mask.expand(len(boxes), self.padding_tokens, -1)], dim=1)

    def embed_points(self, points: Tensor, labels: Tensor, canvas: tuple[int, int]) -> Tensor:
        """float[P, K, 2] xy in pixels of the canvas of (height, width) -> float[P, K, E].

        labels: int[P, K], 1 on the object, 0 off it, -1 no point. SAM ends prompts that have no box with one
        point of label -1.
        """
        codes = self._encode_pixels(points + 0.5, canvas)
        kinds = torch.cat([self._kind(BACKGROUND), self._kind(FOREGROUND)])[labels.clamp_min(0)]
        return torch.where((labels < 0)[..., None], self.not_a_point_embed.weight[0], codes + kinds)

    def dense_pe(self, grid: tuple[int, int]) -> Tensor:
        """float[E, h, w], the position codes of the cell centres of a grid of (h, w)."""
        y, x = (
            (torch.arange(cells, device=self.no_mask.device) + 0.5) / cells for cells in (grid[0], grid[1])
        )
        centres = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1)
        return self.pe_layer(centres).to(self.no_mask.dtype).permute(2, 0, 1)

    def _encode_pixels(self, points: Tensor, canvas: tuple[int, int]) -> Tensor:
        extent = torch.tensor([canvas[1], canvas[0]], device=points.device)
        return self.pe_layer(points.float() / extent).to(self.no_mask.dtype)

    def _kind(self, kind: int) -> Tensor:
        return cast(nn.Embedding, self.point_embeddings[kind]).weight


class RandomFourierCode(nn.Module):
    """Position code [sin, cos] of fixed random projections (Tancik et al. 2020); they never train."""

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, width // 2))

    def forward(self, points: Tensor) -> Tensor:
        """float32[..., 2] xy in [0, 1] -> float32[..., width]."""
        matrix = self.positional_encoding_gaussian_matrix.float()
        points = 2 * points - 1
        # two products instead of a matmul: autocast would lower its precision, and phases are large
        phases = 2 * math.pi * (points[..., :1] * matrix[0] + points[..., 1:] * matrix[1])
        return torch.cat([phases.sin(), phases.cos()], dim=-1)
