"""When each word of a caption was said: the caption's words aligned to the timed utterances.

The text of a caption and its utterances come from two sources (a person typed, a recogniser timed), so they may
differ: a phrase may be one utterance, a word may be missing, repeated, cut in two or spelled with other marks.
Words are compared in a normal form (case folded, punctuation and apostrophes away) by a longest common subsequence;
between two words that agree, words that are only cut differently ("running" said as "runn" "ing") are joined.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datamodules.formats.localized_narratives import Utterance

# Character span [begin, end) of a word in the caption and its seconds, None where nobody said it.
TimedWord = tuple[int, int, float | None, float | None]
Interval = tuple[float, float]


@dataclass(frozen=True)
class Alignment:
    """words: every non-blank stretch of the caption, in order.  dropped: utterances that fit no word of it."""

    words: list[TimedWord]
    dropped: int


@dataclass(frozen=True)
class _Piece:
    """A word of an utterance in normal form, with its share of the utterance's time."""

    utterance: int
    normal: str
    start: float
    stop: float


def time_words(caption: str, utterances: Sequence[Utterance]) -> Alignment:
    """Gives each word of the caption the time of the utterance word that it corresponds to.

    An utterance of several words shares its time among them by their lengths. Times need not be in order: a word
    has its own utterance's. An utterance that ends before it starts is dropped.
    """
    spans = [match.span() for match in re.finditer(r"\S+", caption)]
    words = [_normal(caption[begin:end]) for begin, end in spans]
    pieces = [piece for i, utterance in enumerate(utterances) for piece in _pieces(i, utterance)]
    times: list[Interval | None] = [None] * len(words)
    used: set[int] = set()
    for i, interval, sources in _correspondences(words, pieces):
        times[i] = interval
        used.update(sources)
    timed = [(*span, *(time or (None, None))) for span, time in zip(spans, times, strict=True)]
    return Alignment(timed, len(utterances) - len(used))


def _normal(word: str) -> str:
    """Case folded, in Unicode's compatibility form, without punctuation; a word of nothing else stays as it is."""
    folded = unicodedata.normalize("NFKC", word).casefold()
    if folded.isalnum():
        return folded
    kept = "".join(character for character in folded if not unicodedata.category(character).startswith("P"))
    return kept or folded


def _pieces(index: int, utterance: Utterance) -> Iterator[_Piece]:
    if utterance.start > utterance.stop:
        return
    words = utterance.text.split()
    total = sum(map(len, words))
    end = 0
    for word in words:
        begin, end = end, end + len(word)
        yield _Piece(index, _normal(word), _between(utterance, begin / total), _between(utterance, end / total))


def _between(interval: Utterance | _Piece, part: float) -> float:
    """The time at a part in [0, 1] of an interval; exactly its ends at 0 and 1."""
    return interval.start * (1 - part) + interval.stop * part


def _correspondences(words: list[str], pieces: list[_Piece]) -> Iterator[tuple[int, Interval, Sequence[int]]]:
    """Index of a word, its time, and the utterances that the time comes from."""
    said = [piece.normal for piece in pieces]
    i = j = 0
    for next_i, next_j in [*_common_subsequence(words, said), (len(words), len(said))]:
        if i < next_i and j < next_j and "".join(words[i:next_i]) == "".join(said[j:next_j]):
            yield from _recut(i, words[i:next_i], pieces[j:next_j])
        if next_i < len(words):
            piece = pieces[next_j]
            yield next_i, (piece.start, piece.stop), [piece.utterance]
        i, j = next_i + 1, next_j + 1


def _recut(first: int, words: list[str], pieces: list[_Piece]) -> Iterator[tuple[int, Interval, Sequence[int]]]:
    """Words and pieces that hold the same characters between other borders: times by character."""
    owners = [(piece, k) for piece in pieces for k in range(len(piece.normal))]
    begin = 0
    for i, word in enumerate(words, first):
        (head, k), (tail, m) = owners[begin], owners[begin + len(word) - 1]
        start, stop = _between(head, k / len(head.normal)), _between(tail, (m + 1) / len(tail.normal))
        if start <= stop:
            yield i, (start, stop), [piece.utterance for piece, _ in owners[begin : begin + len(word)]]
        begin += len(word)


def _common_subsequence(a: list[str], b: list[str]) -> list[tuple[int, int]]:
    """Index pairs of a longest common subsequence; of several, one that matches as late as it can."""
    if a == b:
        return [(i, i) for i in range(len(a))]
    skip_a = _skip_table(a, b)
    pairs = []
    i, j = len(a), len(b)
    while i and j:
        if a[i - 1] == b[j - 1]:
            i, j = i - 1, j - 1
            pairs.append((i, j))
        elif skip_a[i - 1, j - 1]:
            i -= 1
        else:
            j -= 1
    return pairs[::-1]


def _skip_table(a: list[str], b: list[str]) -> NDArray[np.bool_]:
    """bool[len(a), len(b)]: at (i, j), nothing is lost by leaving out a[i] of a[:i + 1] against b[:j + 1].

    The rows of the usual dynamic programme, each in a few vector operations: the length at (i, j) is the running
    maximum over j of max(above, diagonal + match).
    """
    number = {word: n for n, word in enumerate(dict.fromkeys([*a, *b]))}
    columns = np.array([number[word] for word in b], dtype=np.int32)
    skip = np.empty((len(a), len(b)), dtype=np.bool_)
    above = np.zeros(len(b) + 1, dtype=np.int32)
    for i, word in enumerate(a):
        row = np.zeros_like(above)
        np.maximum.accumulate(np.maximum(above[1:], above[:-1] + (columns == number[word])), out=row[1:])
        np.equal(row[1:], above[1:], out=skip[i])
        above = row
    return skip
