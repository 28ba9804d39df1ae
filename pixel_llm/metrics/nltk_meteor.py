"""METEOR as nltk's `meteor_score` defines it (Lavie & Agarwal 2007), but for synonyms, which would need WordNet.

Not METEOR 1.5 of `meteor.py`: words are what stands between blanks, all matches count alike, and the weights differ.
"""

from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise

from pixel_llm.metrics.jars import JarUnavailable

_ALPHA, _BETA, _GAMMA = 0.9, 3.0, 0.5  # nltk's defaults
_TOO_SHORT = 2  # such words have no ending

Numbered = list[tuple[int, str]]


def nltk_meteor(hypothesis: str, reference: str) -> float:
    """The score of one text against another, in [0, 1]; not symmetric: recall of the reference weighs nine times.

    Words match where they are equal without case, then where their Porter stems are. nltk's own changes to Porter's
    algorithm ("fly" and "flies", "dying" and "die") are not in it.
    Raises JarUnavailable where the `captions` extra, which brings the stemmer, is not installed.
    """
    stem = _stemmer()
    said, true = (list(enumerate(text.lower().split())) for text in (hypothesis, reference))
    lengths = len(said), len(true)
    matches = _take_matches(said, true)
    matches += _take_matches([(i, stem(word)) for i, word in said], [(i, stem(word)) for i, word in true])
    if not matches:
        return 0.0
    precision, recall = len(matches) / lengths[0], len(matches) / lengths[1]
    mean = precision * recall / (_ALPHA * precision + (1 - _ALPHA) * recall)
    return (1 - _GAMMA * (_chunks(sorted(matches)) / len(matches)) ** _BETA) * mean


def _take_matches(said: Numbered, true: Numbered) -> list[tuple[int, int]]:
    """Pairs of places of equal words, which are removed from both; from the ends, as nltk takes them."""
    matches = []
    for i in reversed(range(len(said))):
        j = next((j for j in reversed(range(len(true))) if true[j][1] == said[i][1]), None)
        if j is not None:
            matches.append((said.pop(i)[0], true.pop(j)[0]))
    return matches


def _chunks(matches: Sequence[tuple[int, int]]) -> int:
    """Stretches of matches that lie next to each other, and in the same order, in both texts."""
    return 1 + sum((b[0] - a[0], b[1] - a[1]) != (1, 1) for a, b in pairwise(matches))


@cache
def _stemmer() -> Callable[[str], str]:
    try:
        from snowballstemmer import stemmer
    except ModuleNotFoundError:
        raise JarUnavailable("snowballstemmer is not installed: pip install 'pixel-llm[captions]'") from None
    stem = stemmer("porter").stemWord
    return cache(lambda word: word if len(word) <= _TOO_SHORT else stem(word))
