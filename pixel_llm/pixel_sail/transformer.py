"""A decoder-only transformer as Qwen2 is one, of any size; its parameters are named as in transformers.

Query heads that share keys are taken as more queries of one head. Keys then need no copies, whatever the kernel, and
the mask of a pass is made once for all layers.
"""

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixel_llm.core.layers import split_heads
from pixel_llm.pixel_sail.backbone import EncoderFreeBackbone, Past
from pixel_llm.pixel_sail.key_values import KeyValues, LayerPast
from pixel_llm.pixel_sail.rotary import RotaryPositions, rotate


class Transformer(EncoderFreeBackbone):
    """
    vocabulary_size: words and symbols.  width: D.  heads, key_value_heads: of the queries and of what they read.
    feed_forward: width inside the feed-forward half.  rope_base: of the rotary positions.
    image_penalty: taken from what a text's queries find in its image's keys. A pretrained model has learned to hear its
        text beside hundreds of patches (0); one from nothing hears so little of each word that it learns for hundreds
        of steps to do so. About log(patches / words) gives both the same say at first.
    tied: the vocabulary's embedding table is also the output layer.
    """

    def __init__(
        self,
        *,
        vocabulary_size: int,
        width: int,
        layers: int,
        heads: int,
        key_value_heads: int,
        feed_forward: int,
        rope_base: float = 1.0e6,
        norm_eps: float = 1e-6,
        tied: bool = True,
        image_penalty: float = 0.0,
    ) -> None:
        super().__init__()
        if width % heads or heads % key_value_heads:
            raise ValueError(
                f"width {width} must divide into {heads} heads, and they by {key_value_heads} heads of keys"
            )
        self.width, self.vocabulary_size, self.group = width, vocabulary_size, heads // key_value_heads
        self.embed_tokens = nn.Embedding(vocabulary_size, width)
        self.layers = nn.ModuleList(Layer(width, heads, key_value_heads, feed_forward, norm_eps) for _ in range(layers))
        self.norm = nn.RMSNorm(width, eps=norm_eps)
        self.rotary = RotaryPositions.of_base(width // heads, rope_base)
        self.image_penalty = image_penalty
        self.lm_head = None if tied else nn.Linear(width, vocabulary_size, bias=False)
        self.apply(_start)
        for layer in self.layers:
            assert isinstance(layer, Layer)
            layer.start_small(layers)

    def embed(self, tokens: Tensor) -> Tensor:
        return self.embed_tokens(tokens)

    def forward(
        self, embeddings: Tensor, positions: Tensor, attend: Tensor, past: Past | None
    ) -> tuple[Tensor, KeyValues]:
        before = cast(KeyValues | None, past)
        angles, mask = self.rotary(positions), self._mask(attend, embeddings, before.image if before else 0)
        hidden, keys, values = embeddings, [], []
        for number, layer in enumerate(self.layers):
            hidden, key, value = layer(hidden, angles, mask, None if before is None else before.layer(number))
            keys.append(key)
            values.append(value)
        return self.norm(hidden), KeyValues(keys, values) if before is None else before.grown(keys, values)

    def _mask(self, attend: Tensor, embeddings: Tensor, image: int) -> Tensor:
        """What the kernel adds, once for all layers, which would each make it of a mask of bools, and keep it.

        image: so many positions, the first, are the image of a text.
        """
        kind = embeddings.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else embeddings.dtype
        mask = torch.zeros(attend.shape, dtype=dtype, device=embeddings.device).masked_fill(~attend, -math.inf)
        mask[:, :, :image] -= self.image_penalty
        return mask[:, None].repeat(1, 1, self.group, 1)

    def logits(self, states: Tensor) -> Tensor:
        return F.linear(states, self.embed_tokens.weight) if self.lm_head is None else self.lm_head(states)


class Layer(nn.Module):
    """One layer; it returns its keys and values too, for gradients come back through them as well."""

    def __init__(self, width: int, heads: int, key_value_heads: int, feed_forward: int, norm_eps: float) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(width, eps=norm_eps)
        self.self_attn = Attention(width, heads, key_value_heads)
        self.post_attention_layernorm = nn.RMSNorm(width, eps=norm_eps)
        self.mlp = GatedFeedForward(width, feed_forward)

    def forward(
        self, hidden: Tensor, angles: tuple[Tensor, Tensor], mask: Tensor, past: LayerPast | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """float[N, L, D] -> the same; keys and values float[N, heads, S + L, d] of the past and of these positions.

        angles: of the positions.
        mask: float[N, 1, group * L, S + L], 0 or minus infinity.
        """
        read, keys, values = self.self_attn(self.input_layernorm(hidden), angles, mask, past)
        hidden = hidden + read
        return hidden + self.mlp(self.post_attention_layernorm(hidden)), keys, values

    def start_small(self, layers: int) -> None:
        """Begin as one of so many layers, whose halves together add about what they are given (GPT-2): else the first
        ones add what all patches have in common, under which what sets them apart is lost.
        """
        for last in (self.self_attn.o_proj, self.mlp.down_proj):
            nn.init.normal_(last.weight, std=(2 * layers * last.in_features) ** -0.5)


class Attention(nn.Module):
    """Grouped-query attention; arguments and results as in `Layer`."""

    def __init__(self, width: int, heads: int, key_value_heads: int) -> None:
        super().__init__()
        self.heads, self.key_value_heads = heads, key_value_heads
        narrow = width // heads * key_value_heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, narrow)
        self.v_proj = nn.Linear(width, narrow)
        self.o_proj = nn.Linear(width, width, bias=False)

    def forward(
        self, hidden: Tensor, angles: tuple[Tensor, Tensor], mask: Tensor, past: LayerPast | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        queries = rotate(split_heads(self.q_proj(hidden), self.heads), angles)
        keys = rotate(split_heads(self.k_proj(hidden), self.key_value_heads), angles)
        values = split_heads(self.v_proj(hidden), self.key_value_heads)
        if past is not None:
            keys, values = past.extend(keys, values)
        queries = queries.unflatten(1, (self.key_value_heads, -1)).flatten(2, 3)
        read = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        read = read.unflatten(2, (-1, hidden.shape[1])).flatten(1, 2)
        return self.o_proj(read.transpose(1, 2).flatten(2)), keys, values


class GatedFeedForward(nn.Module):
    """SwiGLU, float[..., D] -> float[..., D]."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, hidden, bias=False)
        self.up_proj = nn.Linear(width, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, width, bias=False)

    def forward(self, values: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(values)) * self.up_proj(values))


@torch.no_grad()
def _start(module: nn.Module) -> None:
    """Linear layers keep the variance of what they are given; rows of the vocabulary have length 1."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=module.in_features**-0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=module.embedding_dim**-0.5)
