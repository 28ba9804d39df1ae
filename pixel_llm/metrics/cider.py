"""CIDEr-D (Vedantam et al. 2015): agreement of captions with their references on n-grams that tell images apart."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pixel_llm.metrics.bleu import ORDERS, ngrams

_SIGMA = 6.0  # width of the penalty on a difference in length

NGram = tuple[str, ...]


@dataclass
class _Vector:
    """TF-IDF weights of a text per order of n-gram, their norms, and the text's length in bigrams."""

    weights: list[dict[NGram, float]]
    norms: list[float]
    length: int


def cider(captions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """CIDEr-D of each caption, in 0 to 10 (the definition's scale; tables often print 100 times the mean).

    The rarity of an n-gram is counted over the references given here, one document per caption, so a score
    depends on the set, and a set of one caption scores 0. As in the published program the length penalty
    counts bigrams.

    captions, references: tokenized texts, split by spaces; each caption has at least one reference.
    """
    counts = [[ngrams(reference.split()) for reference in own] for own in references]
    documents: Counter[NGram] = Counter()
    for own in counts:
        documents.update(set().union(*own))
    rarity = _Rarity(documents, len(counts))
    scores = []
    for caption, own in zip(captions, counts, strict=True):
        vector = rarity.vector(ngrams(caption.split()))
        scores.append(10 * sum(_similarity(vector, rarity.vector(other)) for other in own) / len(own))
    return scores


@dataclass
class _Rarity:
    """In how many of `total` documents each n-gram stands."""

    documents: Counter[NGram]
    total: int

    def vector(self, counts: Counter[NGram]) -> _Vector:
        weights: list[dict[NGram, float]] = [{} for _ in range(ORDERS)]
        for ngram, count in counts.items():
            rarity = math.log(self.total) - math.log(max(1, self.documents[ngram]))
            weights[len(ngram) - 1][ngram] = count * rarity
        norms = [math.sqrt(sum(weight**2 for weight in order.values())) for order in weights]
        return _Vector(weights, norms, sum(count for ngram, count in counts.items() if len(ngram) == 2))


def _similarity(caption: _Vector, reference: _Vector) -> float:
    """Mean over orders of the clipped cosine, times the length penalty."""
    cosines = 0.0
    for order in range(ORDERS):
        ours, theirs = caption.weights[order], reference.weights[order]
        norm = caption.norms[order] * reference.norms[order]
        if norm > 0:
            shared = [ngram for ngram in ours if ngram in theirs]
            cosines += sum(min(ours[ngram], theirs[ngram]) * theirs[ngram] for ngram in shared) / norm
    return cosines / ORDERS * math.exp(-((caption.length - reference.length) ** 2) / (2 * _SIGMA**2))
