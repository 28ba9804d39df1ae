"""nltk's METEOR without its synonyms: the values of nltk's own documentation, hand counts, and a recomputation."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from snowballstemmer import stemmer

from pixel_llm.metrics.nltk_meteor import nltk_meteor

ORDERS = (
    "It is a guide to action that ensures that the military will forever heed Party commands",
    "It is a guide to action which ensures that the military always obeys the commands of the party",
)


@pytest.mark.parametrize(
    ("reference", "hypothesis", "want"),
    [
        (*ORDERS, 0.6944),
        ("The cat sat on the mat", "on the mat sat the cat", 0.5),
        ("The cat sat on the mat", "The cat was sat on the mat", 0.9654),
        ("The cat sat on the mat", "The cat sat on the mat", 0.9977),
        ("create or update a vm set", "creates or updates a virtual machine scale set", 0.7806),
        ("this is an apple", "an apple on this tree", 0.6233),
        ("this is a cat", "non matching hypothesis", 0.0),
        ("", "a", 0.0),
        ("a", "", 0.0),
    ],
)
def test_the_examples_of_nltk(reference: str, hypothesis: str, want: float) -> None:
    assert nltk_meteor(hypothesis, reference) == pytest.approx(want, abs=5e-5)


def test_counted_by_hand() -> None:
    """Of 4 words 3 match 3 of 6, by stem the last: P 3/4, R 1/2, mean 10PR / (R + 9P); 2 chunks of 3 matches."""
    mean = 10 * 0.75 * 0.5 / (0.5 + 9 * 0.75)
    want = mean * (1 - 0.5 * (2 / 3) ** 3)
    assert nltk_meteor("a red cat sleeping", "a red thing that sleeps well") == pytest.approx(want, abs=1e-12)


def test_the_direction_counts() -> None:
    assert nltk_meteor("a red ring", "a red ring by the small blue star") < 0.45
    assert nltk_meteor("a red ring by the small blue star", "a red ring") > 0.8


def aligned(hypothesis: list[str], reference: list[str]) -> list[tuple[int, int]]:
    """By the documented procedure on sets: stages one after the other, from the last word of the hypothesis on, each
    taking the last word of the reference that is still free."""
    stem = stemmer("porter").stemWord
    taken: dict[int, int] = {}
    for form in (str.lower, lambda word: stem(word.lower()) if len(word) > 2 else word.lower()):
        pairs = product(range(len(hypothesis)), range(len(reference)))
        for i, j in sorted(pairs, reverse=True):
            if i not in taken and j not in taken.values() and form(hypothesis[i]) == form(reference[j]):
                taken[i] = j
    return sorted(taken.items())


WORDS = ["a", "A", "ring", "rings", "ringed", "is", "red", "Red", "reds", "of", "the", "shapes", "shape"]
texts = st.lists(st.sampled_from(WORDS), max_size=9)


@settings(max_examples=200, deadline=None)
@given(texts, texts)
def test_a_recomputation_agrees(hypothesis: list[str], reference: list[str]) -> None:
    matches = aligned(hypothesis, reference)
    want = 0.0
    if matches:
        precision, recall = len(matches) / len(hypothesis), len(matches) / len(reference)
        joined = sum((i + 1, j + 1) in matches for i, j in matches)
        penalty = 0.5 * ((len(matches) - joined) / len(matches)) ** 3
        want = precision * recall / (0.9 * precision + 0.1 * recall) * (1 - penalty)
    assert nltk_meteor(" ".join(hypothesis), " ".join(reference)) == pytest.approx(want, abs=1e-12)
