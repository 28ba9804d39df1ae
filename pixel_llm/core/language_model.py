"""The language model plug: what PixelLLM needs from a language model, and nothing else.

A language model reads a prefix (the projected query tokens, then the tokens of the prompt's text) and
continues it with caption tokens. An encoder-decoder (T5), a decoder with a bidirectional prefix (the GIT-style
one) and a plain decoder-only model all fit: each keeps what it needs of the prefix in a `Prefix` of its own.

Two ways to run it must agree to float precision: `hidden_states` on a whole caption (training), and `start`
followed by `step` per token with a cache (decoding).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor, nn


@dataclass
class Prefix(ABC):
    """A prefix that has been read; rows belong to prompts.

    visual: float[P, Q, D'], the visual tokens as a mask adapter reads them; D' is the model's `adapter_width`.
    """

    visual: Tensor

    @abstractmethod
    def select(self, index: Tensor) -> Self:
        """Rows `index` (int[P']), in that order and possibly repeated."""


class LanguageModel(nn.Module, ABC):
    """Base class of the language models.

    width: D of the hidden states.  visual_width: D_v of the prompt features.  vocabulary_size: V.
    adapter_width: of the visual tokens that a mask adapter reads: projected ones for T5, the prompt features
        themselves for the GIT-style decoder, both as published.
    bos_id, eos_id, pad_id: the special tokens; <bos> may equal the padding (it does in T5).
    """

    width: int
    visual_width: int
    adapter_width: int
    vocabulary_size: int
    bos_id: int
    eos_id: int
    pad_id: int

    @abstractmethod
    def encode_prefix(self, visual: Tensor, context: Tensor | None) -> Prefix:
        """Read the prefix once.

        visual: float[P, Q, D_v] prompt features, projected to the width here.
        context: int[P, C] tokens of the prompt's text, padded at the end, or None.
        Returns whatever `hidden_states` and `start` need of it.
        """

    @abstractmethod
    def hidden_states(self, prefix: Any, tokens: Tensor) -> Tensor:
        """Teacher forcing: int[P, T] -> float[P, T, D]; row t has read the prefix and tokens 0..t."""

    @abstractmethod
    def start(self, prefix: Any) -> Any:
        """Open a cache for decoding from a prefix, before any token."""

    @abstractmethod
    def step(self, state: Any, tokens: Tensor) -> Tensor:
        """Feed the next token of every row: int[P] -> float[P, D]; `state` is updated in place."""

    @abstractmethod
    def reorder(self, state: Any, index: Tensor) -> None:
        """Keep rows `index` (int[P']) of the cache, in that order and possibly repeated; in place."""

    @abstractmethod
    def logits(self, hidden: Tensor) -> Tensor:
        """float[..., D] -> float[..., V]."""
