"""Boxes as something to write: the two ways beside regression in which a language model can say a location.

What they share is small: a box becomes token ids for the decoder to learn, and ids that it wrote become a box again, or
None where they are none. A coordinate is the bin of [0, 1] that it falls into, and is read as the middle of that bin.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence

from datamodules.tokenizer import Tokenizer

Box = tuple[float, float, float, float]


class LocationText(ABC):
    """How boxes x0 y0 x1 y1 in [0, 1] are written; ids are without <bos> and </s>.

    bins: number of bins of a coordinate.
    """

    bins: int

    @abstractmethod
    def vocabulary_size(self, tokenizer: Tokenizer) -> int:
        """How many ids a language model must have to write words and locations."""

    @abstractmethod
    def write(self, box: Sequence[float], tokenizer: Tokenizer) -> list[int]:
        """The ids of a box."""

    @abstractmethod
    def read(self, ids: Sequence[int], tokenizer: Tokenizer) -> Box | None:
        """The box between the two corners that the ids name; None where they are no box."""

    def check(self, tokenizer: Tokenizer) -> None:
        """ValueError with one line where boxes written by this tokenizer could not be read."""
        for value in ((i + 0.5) / self.bins for i in range(self.bins)):
            if self.read(self.write([value] * 4, tokenizer), tokenizer) is None:
                raise ValueError(
                    f"{tokenizer.path}: this tokenizer cannot write the locations of {type(self).__name__}; "
                    "one that `pixel-llm prepare tokenizer` made has all digits"
                )

    def _bins(self, box: Sequence[float]) -> list[int]:
        return [min(max(int(value * self.bins), 0), self.bins - 1) for value in box]

    def _box(self, bins: Sequence[int]) -> Box:
        x0, y0, x1, y1 = ((i + 0.5) / self.bins for i in bins)
        return min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)


class RawString(LocationText):
    """Four numbers of so many digits, as the tokenizer writes any text: "07 45 31 92"."""

    def __init__(self, digits: int = 2) -> None:
        self.digits, self.bins = digits, 10**digits

    def vocabulary_size(self, tokenizer: Tokenizer) -> int:
        return tokenizer.vocabulary_size

    def write(self, box: Sequence[float], tokenizer: Tokenizer) -> list[int]:
        return tokenizer.encode(" ".join(f"{i:0{self.digits}d}" for i in self._bins(box)))[0]

    def read(self, ids: Sequence[int], tokenizer: Tokenizer) -> Box | None:
        numbers = tokenizer.decode(ids)[0].split()
        number = re.compile(rf"[0-9]{{{self.digits}}}")
        if len(numbers) != 4 or not all(number.fullmatch(text) for text in numbers):
            return None
        return self._box([int(text) for text in numbers])


class BinTokens(LocationText):
    """One new token for each bin, behind the tokenizer's vocabulary, the same ones for all coordinates (Pix2Seq)."""

    def __init__(self, bins: int = 100) -> None:
        self.bins = bins

    def vocabulary_size(self, tokenizer: Tokenizer) -> int:
        return tokenizer.vocabulary_size + self.bins

    def write(self, box: Sequence[float], tokenizer: Tokenizer) -> list[int]:
        return [tokenizer.vocabulary_size + i for i in self._bins(box)]

    def read(self, ids: Sequence[int], tokenizer: Tokenizer) -> Box | None:
        bins = [token - tokenizer.vocabulary_size for token in ids]
        if len(bins) != 4 or not all(0 <= i < self.bins for i in bins):
            return None
        return self._box(bins)
