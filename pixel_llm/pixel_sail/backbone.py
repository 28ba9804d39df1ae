"""The backbone plug: what a single transformer for pixels and words needs from a language model, and nothing else.

It is a decoder-only language model that is told what each position sees and where it stands, so that the same weights
read an image in both directions and a text causally. What was read before is a `Past`: the cache that many texts
about one image go on from, in training with gradients.
"""

from abc import ABC, abstractmethod
from typing import Self

from torch import Tensor, nn


class Past(ABC):
    """Keys and values of what was read, in every layer; rows belong to sequences.

    length: S, how many positions.
    """

    length: int

    @abstractmethod
    def select(self, index: Tensor) -> Self:
        """Rows `index` (int[N']), in that order and possibly repeated; a new one, this one stays as it is."""

    @abstractmethod
    def reserve(self, positions: int) -> Self:
        """A copy with room for so many more positions, into which reading on writes in place.

        For decoding without gradients: a step then does not copy what was read. Reading on from any other `Past` leaves
        it as it is.
        """


class EncoderFreeBackbone(nn.Module, ABC):
    """Base class of the backbones.

    width: D of embeddings and states.  vocabulary_size: V, words and symbols.
    """

    width: int
    vocabulary_size: int

    @abstractmethod
    def embed(self, tokens: Tensor) -> Tensor:
        """int[...] -> float[..., D], rows of the embedding table."""

    @abstractmethod
    def forward(self, embeddings: Tensor, positions: Tensor, attend: Tensor, past: Past | None) -> tuple[Tensor, Past]:
        """Read L positions, after those of `past`.

        embeddings: float[N, L, D].  positions: int[N, L, 3] on the axes of `pixel_llm.pixel_sail.rotary`.
        attend: bool[N, L, S + L], what each position sees of the past and of these positions: at least one.
        Returns the states after the final norm, float[N, L, D], and the past with these positions.
        """

    @abstractmethod
    def logits(self, states: Tensor) -> Tensor:
        """float[..., D] -> float[..., V]."""
