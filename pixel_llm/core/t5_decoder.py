"""T5's decoder token by token, written out on the weights of transformers' modules.

One token is little arithmetic; transformers' modules spend most of its time on the calls around it. Here a layer
makes few calls, and adapters are merged into their weights once instead of being multiplied at every token. There
is no dropout: decoding is no training. T5 does not scale attention by the width of its heads.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixel_llm.core.layers import join_heads, split_heads

_FIRST_ROOM = 64  # tokens that caches are made for; each time they are full they double


class DecoderState:
    """Where the decoding of P prompts stands.

    stack: transformers' decoder.  memory: float[P, S, D], the encoder's output.
    mask: int[P, S], 1 where the memory is no padding.
    """

    def __init__(self, stack: Any, memory: Tensor, mask: Tensor) -> None:
        self.stack, self.mask = stack, mask.bool()[:, None, None]
        self.layers = [_Layer(block, memory) for block in stack.block]
        self.length = self.room = 0

    def step(self, hidden: Tensor) -> Tensor:
        """Read the next token of every prompt: its embedding float[P, D] -> its state float[P, D]."""
        if self.length == self.room:
            self._make_room(max(_FIRST_ROOM, 2 * self.room))
        self.length += 1
        hidden, bias = hidden[:, None], self.bias[..., -self.length :]
        for layer in self.layers:
            hidden = layer.step(hidden, self.length, bias, self.mask)
        return self.stack.final_layer_norm(hidden)[:, 0]

    def _make_room(self, room: int) -> None:
        """bias: float[1, heads, 1, room], of the last of `room` tokens on each; its end is that of an earlier one."""
        self.bias = self.stack.block[0].layer[0].SelfAttention.compute_bias(1, room, past_seen_tokens=room - 1)
        for layer in self.layers:
            layer.tokens = [F.pad(part, (0, 0, 0, room - self.room)) for part in layer.tokens]
        self.room = room

    def reorder(self, index: Tensor) -> None:
        """Keep rows `index` (int[P'])."""
        self.mask = self.mask[index]
        for layer in self.layers:
            layer.tokens, layer.memory = ([part[index] for part in parts] for parts in (layer.tokens, layer.memory))


class _Layer:
    """A layer with its cache.

    tokens: keys and values of the tokens read, float[P, heads, room, d] each.  memory: those of the memory.
    """

    def __init__(self, block: Any, memory: Tensor) -> None:
        self_attention, cross_attention, feed_forward = block.layer
        self.norms = [part.layer_norm for part in block.layer]
        self.read = _projections(self_attention.SelfAttention, "qkvo")
        self.look = _projections(cross_attention.EncDecAttention, "qkvo")
        self.feed_forward = feed_forward.DenseReluDense
        self.heads = self_attention.SelfAttention.n_heads
        self.memory = [split_heads(self.look[name](memory), self.heads) for name in "kv"]
        self.tokens = [part[:, :, :0] for part in self.memory]

    def step(self, hidden: Tensor, length: int, bias: Tensor, mask: Tensor) -> Tensor:
        """float[P, 1, D] -> float[P, 1, D], of token number `length`; bias: of positions.  mask: of the memory."""
        normed = self.norms[0](hidden)
        query, *new = (split_heads(self.read[name](normed), self.heads) for name in "qkv")
        for part, values in zip(self.tokens, new, strict=True):
            part[:, :, length - 1 : length] = values
        read = [part[:, :, :length] for part in self.tokens]
        hidden = hidden + self.read["o"](_attend(query, read, bias.to(query.dtype)))
        query = split_heads(self.look["q"](self.norms[1](hidden)), self.heads)
        hidden = hidden + self.look["o"](_attend(query, self.memory, mask))
        return hidden + self.feed_forward(self.norms[2](hidden))


def _attend(query: Tensor, memory: list[Tensor], mask: Tensor) -> Tensor:
    key, value = memory
    return join_heads(F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=1.0))


def _projections(attention: nn.Module, names: str) -> dict[str, Callable[[Tensor], Tensor]]:
    return {name: _projection(getattr(attention, name)) for name in names}


def _projection(linear: Any) -> Callable[[Tensor], Tensor]:
    """A linear module, with or without an adapter, as a function."""
    if isinstance(linear, nn.Linear):
        return partial(F.linear, weight=linear.weight)
    weight = linear.base_layer.weight
    # in half precision, a small difference would be rounded away when it is added to the weight
    if weight.dtype != torch.float32 or torch.is_autocast_enabled(weight.device.type):
        return linear
    return partial(F.linear, weight=weight + linear.get_delta_weight("default"))
