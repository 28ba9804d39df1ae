"""BLEU (Papineni et al. 2002) of a set of captions, as the COCO caption protocol counts it."""

import math
from collections import Counter
from collections.abc import Sequence

ORDERS = 4
_TINY, _SMALL = 1e-15, 1e-9  # keep a score defined where no n-gram matches, or none exists


def ngrams(words: Sequence[str]) -> Counter[tuple[str, ...]]:
    """Counts of all n-grams of orders 1 to 4."""
    return Counter(tuple(words[start : start + n]) for n in range(1, ORDERS + 1) for start in range(len(words) - n + 1))


def bleu(captions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """BLEU-1 to BLEU-4 in [0, 1] over the whole set: counts are summed over captions before dividing.

    A count is clipped by its largest count in one reference; the brevity penalty compares with the reference
    closest in length, the shorter of two equally close.

    captions, references: tokenized texts, split by spaces; each caption has at least one reference.
    """
    correct, possible = [0] * ORDERS, [0] * ORDERS
    length, reference_length = 0, 0
    for caption, own_references in zip(captions, references, strict=True):
        words, own = caption.split(), [reference.split() for reference in own_references]
        length += len(words)
        reference_length += min((abs(len(other) - len(words)), len(other)) for other in own)[1]
        for order, matches in enumerate(_clipped_matches(words, own)):
            correct[order] += matches
            possible[order] += max(0, len(words) - order)
    return _scores(correct, possible, (length + _TINY) / (reference_length + _SMALL))


def _clipped_matches(words: list[str], references: list[list[str]]) -> list[int]:
    """How many n-grams of each order stand in a reference too."""
    most: Counter[tuple[str, ...]] = Counter()
    for reference in references:
        most |= ngrams(reference)
    matches = [0] * ORDERS
    for ngram, count in (ngrams(words) & most).items():
        matches[len(ngram) - 1] += count
    return matches


def _scores(correct: list[int], possible: list[int], length_ratio: float) -> list[float]:
    """Geometric means of the precisions up to each order, times the brevity penalty."""
    penalty = math.exp(1 - 1 / length_ratio) if length_ratio < 1 else 1.0
    product, scores = 1.0, []
    for order in range(ORDERS):
        product *= (correct[order] + _TINY) / (possible[order] + _SMALL)
        scores.append(product ** (1 / (order + 1)) * penalty)
    return scores
