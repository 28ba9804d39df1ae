"""SAM's two-way transformer: prompt tokens read the image, the image reads the tokens (Kirillov et al. 2023).

Parameters are named as in segment-anything. Prompts are ragged: P prompts over B images. Up to the first time
that the image reads the tokens it is the same for all prompts of an image, so the first layer projects B
images, not P, and hands each prompt its row.
"""

from collections.abc import Iterator
from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from pixel_llm.core.layers import FeedForward, attend


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
        self, image: Tensor, image_pe: Tensor, tokens: Tensor, image_index: Tensor, valid: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Let tokens and images read each other.

        image: float[B, N, D], flattened feature maps.
        image_pe: float[N, D], their position codes.
        tokens: float[P, K, D], which are also their own position codes.
        image_index: int[P], the image of each prompt.
        valid: bool[P, N], False for cells of the image that tokens are not to read.
        Returns the tokens float[P, K, D] and, per prompt, the image float[P, N, D].
        """
        token_pe = tokens
        rows: Tensor | None = image_index
        for layer in self.layers:
            tokens, image = layer(tokens, image, token_pe, image_pe, rows, valid)
            rows = None
        attended = self.final_attn_token_to_image(
            tokens + token_pe, image + image_pe, image, key_rows=rows, key_valid=valid
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
        """rows: int[P], which row of `image` each prompt reads; None: there is one row per prompt already.

        valid: as in `TwoWayTransformer`.
        """
        if self.first:
            tokens = self.norm1(self.self_attn(tokens, tokens, tokens))
        else:
            placed = tokens + token_pe
            tokens = self.norm1(tokens + self.self_attn(placed, placed, tokens))
        placed_image = image + image_pe
        attended = self.cross_attn_token_to_image(
            tokens + token_pe, placed_image, image, key_rows=rows, key_valid=valid
        )
        tokens = self.norm2(tokens + attended)
        tokens = self.norm3(tokens + self.mlp(tokens))
        attended = self.cross_attn_image_to_token(placed_image, tokens + token_pe, tokens, query_rows=rows)
        image = image if rows is None else image[rows]
        return tokens, self.norm4(image + attended)


class Attention(nn.Module):
    """Multi-head attention with inner width `inner`."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, inner)
        self.k_proj = nn.Linear(width, inner)
        self.v_proj = nn.Linear(width, inner)
        self.out_proj = nn.Linear(inner, width)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        query_rows: Tensor | None = None,
        key_rows: Tensor | None = None,
        key_valid: Tensor | None = None,
    ) -> Tensor:
        """float[P, N, D], float[P, M, D], float[P, M, D] -> float[P, N, D].

        query_rows, key_rows: int[P]; that side has fewer rows than P and is projected before its rows are dealt
            out to the prompts.
        key_valid: bool[P, M], False for keys that nothing attends to.
        """
        query, key, value = self.q_proj(query), self.k_proj(key), self.v_proj(value)
        if query_rows is not None:
            query = query[query_rows]
        if key_rows is not None:
            key, value = key[key_rows], value[key_rows]
        return self.out_proj(attend(query, key, value, self.heads, key_valid))
