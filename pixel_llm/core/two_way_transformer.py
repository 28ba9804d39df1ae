"""SAM's two-way transformer: prompt tokens read the image, the image reads the tokens (Kirillov et al. 2023).

Parameters are named as in segment-anything. Prompts are ragged: P prompts over B images. Until it has read the
tokens an image is the same for all of its prompts, so the first layer projects B images, not P, and deals each prompt
its row.
"""

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixel_llm.core.layers import FeedForward, attend, split_heads


class TwoWayTransformer(nn.Module):
    """depth: number of layers.  mlp: hidden width of the feed-forwards.

    Cross-attention works at half of `width`, which must be a multiple of 2 * heads.
    """

    def __init__(self, *, width: int, depth: int, heads: int = 8, mlp: int = 2048) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            TwoWayLayer(width=width, heads=heads, mlp=mlp, first=index == 0) for index in range(depth)
        )
        self.final_attn_token_to_image = Attention(width, heads, width // 2)
        self.norm_final_attn = nn.LayerNorm(width)

    def forward(
        self,
        image: Tensor,
        image_pe: Tensor,
        tokens: Tensor,
        image_index: Tensor | None,
        valid: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Let tokens and images read each other.

        image: float[B, N, D], flattened feature maps.
        image_pe: float[N, D], their position codes.
        tokens: float[P, K, D], which are also their own position codes.
        image_index: int[P], the image of each prompt; None: each prompt has its own, B = P.
        valid: bool[P, N], False for cells of the image that tokens are not to read.
        Returns the tokens float[P, K, D] and, per prompt, the image float[P, N, D].
        """
        token_pe, rows = tokens, image_index
        for layer in self.layers:
            tokens, image = layer(tokens, image, token_pe, image_pe, rows, valid)
            rows = None
        attended = self.final_attn_token_to_image.read_image(
            tokens + token_pe, image + image_pe, image, rows, valid
        )
        return self.norm_final_attn(tokens + attended), image

    def reading_attentions(self) -> Iterator["Attention"]:
        """The attentions by which tokens read the image."""
        for layer in self.layers:
            yield cast(TwoWayLayer, layer).cross_attn_token_to_image
        yield self.final_attn_token_to_image


class TwoWayLayer(nn.Module):
    """Tokens attend to tokens, tokens to image, feed-forward, image to tokens; LayerNorm after each.

    first: the first layer replaces the tokens by their self-attention, without position codes or residual.
    """

    def __init__(self, *, width: int, heads: int, mlp: int, first: bool) -> None:
        super().__init__()
        self.first = first
        self.self_attn = Attention(width, heads, width)
        self.norm1 = nn.LayerNorm(width)
        self.cross_attn_token_to_image = Attention(width, heads, width // 2)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = FeedForward(width, mlp, F.relu)
        self.norm3 = nn.LayerNorm(width)
        self.cross_attn_image_to_token = Attention(width, heads, width // 2)
        self.norm4 = nn.LayerNorm(width)

    def forward(
        self,
        tokens: Tensor,
        image: Tensor,
        token_pe: Tensor,
        image_pe: Tensor,
        rows: Tensor | None,
        valid: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """rows, valid: `image_index` and `valid` of the transformer."""
        if self.first:
            tokens = self.norm1(self.self_attn(tokens, tokens, tokens))
        else:
            placed = tokens + token_pe
            tokens = self.norm1(tokens + self.self_attn(placed, placed, tokens))
        placed = image + image_pe
        attended = self.cross_attn_token_to_image.read_image(tokens + token_pe, placed, image, rows, valid)
        tokens = self.norm2(tokens + attended)
        tokens = self.norm3(tokens + self.mlp(tokens))
        attended = self.cross_attn_image_to_token.read_tokens(placed, tokens + token_pe, tokens, rows)
        return tokens, self.norm4(deal(image, rows) + attended)


class Attention(nn.Module):
    """Multi-head attention with inner width `inner`, of H heads.

    Between a few tokens and the many cells of an image, projecting the cells is most of the work. With H * K < inner
    it is left undone: the score of a query q and a cell x is q . (W x + b) = (W' q) . x + q . b, so the K tokens
    carry the projections of the cells, head by head.
    """

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (inner // heads) ** -0.5
        self.q_proj = nn.Linear(width, inner)
        self.k_proj = nn.Linear(width, inner)
        self.v_proj = nn.Linear(width, inner)
        self.out_proj = nn.Linear(inner, width)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """float[P, K, D], float[P, M, D], float[P, M, D] -> float[P, K, D]."""
        return self.out_proj(attend(self.q_proj(query), self.k_proj(key), self.v_proj(value), self.heads))

    def read_image(
        self, query: Tensor, key: Tensor, value: Tensor, rows: Tensor | None, valid: Tensor | None
    ) -> Tensor:
        """The same for tokens float[P, K, D] as queries and cells float[B, N, D] as keys and values.

        rows: int[P], the row of the cells that each prompt reads; None: B = P.
        valid: bool[P, N], False for cells that are not read.
        """
        query = self.q_proj(query)
        if rows is not None or not self._is_carried_by(query):
            key, value = deal(self.k_proj(key), rows), deal(self.v_proj(value), rows)
            return self.out_proj(attend(query, key, value, self.heads, valid))
        scores = self._scores(query, self.k_proj, key)
        if valid is not None:
            scores = scores.masked_fill(~valid[:, None, None], -torch.inf)
        read = (scores.softmax(-1).flatten(1, 2) @ value).unflatten(1, scores.shape[1:3])
        weight = self.v_proj.weight.unflatten(0, (self.heads, -1))
        read = torch.einsum("phkc,hdc->pkhd", read, weight).flatten(2)
        return self.out_proj(read + self.v_proj.bias)

    def read_tokens(self, query: Tensor, key: Tensor, value: Tensor, rows: Tensor | None) -> Tensor:
        """The same for cells float[B, N, D] as queries and tokens float[P, K, D] as keys and values; rows as above."""
        key, value = self.k_proj(key), self.v_proj(value)
        if not self._is_carried_by(key):
            return self.out_proj(attend(deal(self.q_proj(query), rows), key, value, self.heads))
        weights = self._scores(key, self.q_proj, deal(query, rows)).softmax(2).flatten(1, 2)
        weight = self.out_proj.weight.unflatten(1, (self.heads, -1))
        values = torch.einsum("phkd,chd->phkc", split_heads(value, self.heads), weight)
        values = values + self.out_proj.bias / self.heads  # the weights of each head sum to one
        return weights.transpose(1, 2) @ values.flatten(1, 2)

    def _is_carried_by(self, tokens: Tensor) -> bool:
        """Whether it is less work for projected tokens, float[P, K, inner], to carry the projections of the cells."""
        return self.heads * tokens.shape[1] < tokens.shape[2]

    def _scores(self, tokens: Tensor, projection: nn.Linear, cells: Tensor) -> Tensor:
        """Projected tokens float[P, K, H * d] and cells float[P, N, D] that are not -> float[P, H, K, N]."""
        tokens = split_heads(tokens * self.scale, self.heads)
        weight, bias = (values.unflatten(0, (self.heads, -1)) for values in (projection.weight, projection.bias))
        carried = torch.einsum("phkd,hdc->phkc", tokens, weight).flatten(1, 2)
        constant = torch.einsum("phkd,hd->phk", tokens, bias).flatten(1, 2)
        scores = torch.baddbmm(constant[:, :, None], carried, cells.transpose(1, 2))
        return scores.unflatten(1, (self.heads, -1))


def deal(images: Tensor, rows: Tensor | None) -> Tensor:
    """float[B, ...] -> float[P, ...]: the row of each prompt; None where each has its own already."""
    return images if rows is None else images[rows]
