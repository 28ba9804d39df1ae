"""ROUGE-L: reference numbers, the subsequence against the textbook table, corners."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixel_llm.metrics.rouge import longest_common_subsequence, rouge_l


def test_equals_the_reference_implementation(scored):
    values = [rouge_l(*pair) for pair in zip(scored.captions, scored.references, strict=True)]
    np.testing.assert_allclose(values, scored.want["ROUGE_L"]["per_item"], rtol=0, atol=1e-12)


def table(left: str, right: str) -> int:
    previous = [0] * (len(right) + 1)
    for a in left:
        row = [0]
        for column, b in enumerate(right):
            row.append(previous[column] + 1 if a == b else max(previous[column + 1], row[column]))
        previous = row
    return previous[-1]


@given(st.text("abc", max_size=40), st.text("abcd", max_size=40))
def test_subsequence_equals_the_textbook_table(left, right):
    assert longest_common_subsequence(left, right) == table(left, right)


def test_empty_captions():
    assert rouge_l("", ["a dog"]) == 0.0
    assert rouge_l("a dog", [""]) == 0.0
    assert rouge_l("", [""]) == pytest.approx(1.0)


def test_caption_of_5000_words():
    assert rouge_l("a dog runs " * 1700 + "end", ["dog end"]) == pytest.approx(0.0009554, rel=1e-2)
