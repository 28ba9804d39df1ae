"""Sentences: nothing but blanks is left out, and ends are where a reader sees them."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.sentences import sentence_spans

CASES = {
    "A dog. A cat.": ["A dog.", "A cat."],
    "A dog": ["A dog"],
    " A dog .  A cat ": ["A dog .", "A cat"],
    "It costs 3.5 dollars. Wow!": ["It costs 3.5 dollars.", "Wow!"],
    "He says 'stop.' She goes (away.) Then?": ["He says 'stop.'", "She goes (away.)", "Then?"],
    "Wait... what?! Yes.": ["Wait...", "what?!", "Yes."],
    "A dog. .": ["A dog. ."],
    "A dog. 😀": ["A dog. 😀"],
    "...": ["..."],
    "... A dog. ! A cat.": ["... A dog. !", "A cat."],
    "😀": ["😀"],
    "כלב חום. שני כלבים": ["כלב חום.", "שני כלבים"],
    "一只狗。两只猫！": ["一只狗。", "两只猫！"],
    "one\ntwo.\nthree": ["one\ntwo.", "three"],
    "": [],
    " \n": [],
}


@pytest.mark.parametrize("text", CASES)
def test_sentences(text: str) -> None:
    assert [text[begin:end] for begin, end in sentence_spans(text)] == CASES[text]


@given(st.text(st.sampled_from("aé1כ😀 .!?。\"')\n"), max_size=40) | st.text(max_size=40))
def test_only_blanks_are_left_out(text: str) -> None:
    spans = sentence_spans(text)
    assert all(text[begin:end] == text[begin:end].strip() != "" for begin, end in spans)
    assert all(a[1] <= b[0] for a, b in pairwise(spans))
    inside = {i for begin, end in spans for i in range(begin, end)}
    assert not "".join(c for i, c in enumerate(text) if i not in inside).strip()
