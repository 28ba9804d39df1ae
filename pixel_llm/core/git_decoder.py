"""The GIT-style decoder as the language model: a decoder with a bidirectional prefix (Wang et al. 2022).

Who attends to whom ("x": yes); padding of the context is never attended to, padding of the caption is:

                 visual  context  caption
    visual          x       x
    context         x       x
    caption         x       x     up to itself

The prefix never sees the caption, so its keys and values are computed once per prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixel_llm.core.language_model import LanguageModel, Prefix
from pixel_llm.core.layers import join_heads, split_heads

KeyValue = tuple[Tensor, Tensor]


@dataclass
class GitPrefix(Prefix):
    """cache: per layer keys and values, float[P, heads, S, d] each.  mask: bool[P, S], False in padding."""

    cache: list[KeyValue]
    mask: Tensor

    def select(self, index: Tensor) -> "GitPrefix":
        cache = [(keys[index], values[index]) for keys, values in self.cache]
        return GitPrefix(self.visual[index], cache, self.mask[index])


@dataclass
class GitState:
    """The same for prefix and caption so far; length: number of caption tokens read."""

    cache: list[KeyValue]
    mask: Tensor
    length: int


class GitDecoder(LanguageModel):
    """Post-norm BERT layers; the defaults are the published sizes.

    feed_forward: hidden width of the feed-forwards.  positions: longest context or caption.
    visual_width: width of the prompt features; they pass through Linear and LayerNorm (eps 1e-5).
    """

    def __init__(
        self,
        *,
        visual_width: int,
        width: int = 768,
        layers: int = 6,
        heads: int = 12,
        feed_forward: int = 3072,
        vocabulary_size: int = 30522,
        positions: int = 1024,
        dropout: float = 0.1,
        bos_id: int = 101,
        eos_id: int = 102,
        pad_id: int = 0,
    ) -> None:
        super().__init__()
        self.width, self.vocabulary_size = width, vocabulary_size
        self.visual_width = self.adapter_width = visual_width
        self.bos_id, self.eos_id, self.pad_id = bos_id, eos_id, pad_id
        self.visual_projection = nn.Sequential(nn.Linear(visual_width, width), nn.LayerNorm(width, eps=1e-5))
        self.words = nn.Embedding(vocabulary_size, width)
        self.positions = nn.Embedding(positions, width)
        self.embedding_norm = nn.LayerNorm(width, eps=1e-8)
        self.dropout = nn.Dropout(dropout)
        sizes = {"width": width, "heads": heads, "feed_forward": feed_forward}
        self.layers: Sequence[GitLayer] = nn.ModuleList(  # type: ignore[assignment]
            GitLayer(**sizes, dropout=dropout) for _ in range(layers)
        )
        self.output = nn.Linear(width, vocabulary_size)
        self.apply(initialise)

    def embed(self, tokens: Tensor, start: int = 0) -> Tensor:
        """int[P, T] -> float[P, T, D]; the first token stands at position `start`."""
        places = torch.arange(start, start + tokens.shape[1], device=tokens.device)
        return self.dropout(self.embedding_norm(self.words(tokens) + self.positions(places)))

    def encode_prefix(self, visual: Tensor, context: Tensor | None) -> GitPrefix:
        hidden = self.visual_projection(visual)
        mask = hidden.new_ones(hidden.shape[:2], dtype=torch.bool)
        if context is not None:
            hidden = torch.cat([hidden, self.embed(context)], dim=1)
            mask = torch.cat([mask, context != self.pad_id], dim=1)
        cache = []
        for layer in self.layers:
            cache.append(layer.keys_values(hidden))
            if layer is not self.layers[-1]:  # nobody reads the prefix after its last keys
                hidden = layer(hidden, cache[-1], mask[:, None, None])
        return GitPrefix(visual, cache, mask)

    def hidden_states(self, prefix: GitPrefix, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        causal = prefix.mask.new_ones(length, length).tril().expand(len(tokens), -1, -1)
        mask = torch.cat([prefix.mask[:, None].expand(-1, length, -1), causal], dim=-1)
        hidden = self.embed(tokens)
        for layer, before in zip(self.layers, prefix.cache, strict=True):
            hidden = layer(hidden, append(before, layer.keys_values(hidden)), mask[:, None])
        return hidden

    def start(self, prefix: GitPrefix) -> GitState:
        return GitState(list(prefix.cache), prefix.mask, 0)

    def step(self, state: GitState, tokens: Tensor) -> Tensor:
        hidden = self.embed(tokens[:, None], state.length)
        state.length += 1
        state.mask = F.pad(state.mask, (0, 1), value=True)
        for index, layer in enumerate(self.layers):
            state.cache[index] = append(state.cache[index], layer.keys_values(hidden))
            hidden = layer(hidden, state.cache[index], state.mask[:, None, None])
        return hidden[:, 0]

    def reorder(self, state: GitState, index: Tensor) -> None:
        state.cache = [(keys[index], values[index]) for keys, values in state.cache]
        state.mask = state.mask[index]

    def logits(self, hidden: Tensor) -> Tensor:
        return self.output(hidden)


class GitLayer(nn.Module):
    """Attention and feed-forward, LayerNorm after each residual (eps 1e-5 and 1e-12, as published)."""

    def __init__(self, *, width: int, heads: int, feed_forward: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.attention_dropout = heads, dropout
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.attention_output = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, eps=1e-5)
        self.intermediate = nn.Linear(width, feed_forward)
        self.output = nn.Linear(feed_forward, width)
        self.output_norm = nn.LayerNorm(width, eps=1e-12)
        self.dropout = nn.Dropout(dropout)

    def keys_values(self, hidden: Tensor) -> KeyValue:
        """float[P, T, D] -> two of float[P, heads, T, d]."""
        return split_heads(self.key(hidden), self.heads), split_heads(self.value(hidden), self.heads)

    def forward(self, hidden: Tensor, memory: KeyValue, mask: Tensor) -> Tensor:
        """float[P, T, D], attending to S keys where `mask`, bool[P, 1, T or 1, S], is True."""
        query = split_heads(self.query(hidden), self.heads)
        dropout = self.attention_dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(query, *memory, attn_mask=mask, dropout_p=dropout)
        attended = self.attention_output(join_heads(attended))
        hidden = self.attention_norm(hidden + self.dropout(attended))
        expanded = self.output(F.gelu(self.intermediate(hidden)))
        return self.output_norm(hidden + self.dropout(expanded))


def append(before: KeyValue, after: KeyValue) -> KeyValue:
    """Keys and values of two stretches of a sequence, one behind the other."""
    return torch.cat([before[0], after[0]], dim=2), torch.cat([before[1], after[1]], dim=2)


def initialise(module: nn.Module) -> None:
    """N(0, 0.02) for weights, zero for biases, as published."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
