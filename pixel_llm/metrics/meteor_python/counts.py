"""The 23 counts of METEOR 1.5, of which its score is made."""

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from pixel_llm.metrics.meteor_python.aligner import align
from pixel_llm.metrics.meteor_python.matches import Match, Matcher
from pixel_llm.metrics.meteor_python.paraphrases import Phrase
from pixel_llm.metrics.meteor_python.resources import read_lines

_COUNTS = 23
_CHUNKS = 20


def meteor_counts(pairs: Sequence[tuple[str, str]]) -> NDArray[np.float64]:
    """pairs: a caption and one reference each. Returns float64[pairs, 23], in the order of the program's.

    Raises JarUnavailable where the `pycocoevalcap` package, which brings the word lists, is missing.
    """
    matcher, function_words = _matcher(), _function_words()
    words = {text: matcher.words(text) for pair in pairs for text in pair}
    paraphrases = matcher.paraphrases(words.values())
    phrases = paraphrases.keys() | {target for own in paraphrases.values() for target in own}
    texts = {text: matcher.text(own, phrases) for text, own in words.items()}
    rows = np.zeros((len(pairs), _COUNTS))
    for row, (caption, reference) in zip(rows, pairs, strict=True):
        chosen, chunks = align(matcher.matches(texts[caption], texts[reference], paraphrases))
        row[:] = _count(words[caption], words[reference], chosen, chunks, function_words)
    return rows


def _count(
    caption: Phrase, reference: Phrase, chosen: Sequence[Match], chunks: int, function_words: frozenset[str]
) -> list[int]:
    """Lengths, function words, matched content and function words by module and side, chunks, matched words."""
    function_counts = (sum(map(function_words.__contains__, text)) for text in (caption, reference))
    counts = [len(caption), len(reference), *function_counts, *[0] * (_COUNTS - 4)]
    for match in chosen:
        sides = (caption, match.other_start, match.other_length), (reference, match.start, match.length)
        for side, (text, start, length) in enumerate(sides):
            function = sum(map(function_words.__contains__, text[start : start + length]))
            counts[4 + 4 * match.module + side] += length - function
            counts[4 + 4 * match.module + 2 + side] += function
            counts[_CHUNKS + 1 + side] += length
    counts[_CHUNKS] = chunks
    return counts


@cache
def _matcher() -> Matcher:
    return Matcher()


@cache
def _function_words() -> frozenset[str]:
    return frozenset(read_lines("function/english.words"))
