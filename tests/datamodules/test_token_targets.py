"""Words, traces and tokens: no token is ever bound to another word's interval."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.alignment import wrong_words
from datamodules.formats.localized_narratives import Utterance
from datamodules.prepare.word_times import time_words
from datamodules.token_targets import (
    boxes_by_interval,
    boxes_by_rank,
    utterances_by_rank,
    word_boxes,
    words_of_tokens,
)
from datamodules.tokenizer import Tokenizer, train_tokenizer
from tests.tiny import random_trace


def brute_force(trace: np.ndarray, interval: tuple[float, float] | None) -> list[float] | None:
    inside = [] if interval is None else [p for p in trace if interval[0] <= p[2] <= interval[1]]
    if not inside:
        return None
    xs, ys = [p[0] for p in inside], [p[1] for p in inside]
    return [min(max(v, 0.0), 1.0) for v in (min(xs), min(ys), max(xs), max(ys))]


@given(st.integers(0, 10_000), st.integers(0, 40), st.integers(0, 12))
@settings(max_examples=150, deadline=None)
def test_word_boxes_bound_exactly_the_points_of_the_interval(seed: int, points: int, words: int) -> None:
    rng = np.random.default_rng(seed)
    trace = random_trace(rng, points)
    trace[:, :2] = trace[:, :2] * 1.4 - 0.2  # annotators leave the image
    end = float(trace[-1, 2]) if points else 1.0
    intervals = [None if rng.random() < 0.2 else tuple(np.sort(rng.random(2) * end * 1.2)) for _ in range(words)]
    for box, interval in zip(word_boxes(trace, intervals), intervals, strict=True):
        want = brute_force(trace, interval)
        assert np.isnan(box).all() if want is None else box.tolist() == pytest.approx(want)


WORDS = st.text(alphabet="abcdefgh", min_size=1, max_size=6)


@given(st.lists(WORDS, min_size=1, max_size=25), st.integers(0, 1000))
@settings(max_examples=80, deadline=None)
def test_no_token_is_bound_to_another_words_interval(words: list[str], seed: int) -> None:
    """Text and utterances agree; every point carries its word's number as its place, so a box tells whose it is."""
    caption, utterances, points = " ".join(words), [], []
    rng = np.random.default_rng(seed)
    time = 0.0
    for number, word in enumerate(words):
        start, time = time, time + float(rng.uniform(0.1, 0.5))
        utterances.append(Utterance(word, start, time - 0.01))
        points += [[number / 100, number / 100, t] for t in np.linspace(start, time - 0.01, 3)]
    alignment = time_words(caption, utterances)
    boxes = word_boxes(np.array(points), [(w[2], w[3]) for w in alignment.words])
    spans = [(w[0], w[1]) for w in alignment.words]
    tokenizer = train_tokenizer([caption], 40)
    _, characters = tokenizer.encode(caption)
    located = boxes_by_interval(words_of_tokens(characters, spans), boxes)
    for (begin, end), box in zip(characters, located, strict=True):
        stripped = begin + len(caption[begin:end]) - len(caption[begin:end].lstrip())
        if stripped == end:
            continue
        owner = next(i for i, (a, b) in enumerate(spans) if a <= stripped < b)
        assert box.tolist() == pytest.approx([owner / 100] * 4)


def test_tokens_take_the_word_they_share_most_characters_with() -> None:
    words = [(0, 3), (4, 9)]
    assert words_of_tokens([(0, 2), (2, 3), (3, 6), (6, 9), (9, 12)], words) == [0, 0, 1, 1, -1]
    assert words_of_tokens([(2, 5)], words) == [0]  # a tie goes to the earlier word


def test_rank_rule_is_monotone_and_stretched() -> None:
    assert utterances_by_rank(6, 3).tolist() == [0, 1, 1, 1, 2, 2]
    assert utterances_by_rank(3, 3).tolist()[-1] == 2
    assert np.isnan(boxes_by_rank(2, np.empty((0, 4)))).all()
    for tokens, utterances in ((1, 1), (5, 9), (30, 4)):
        taken = utterances_by_rank(tokens, utterances)
        assert (np.diff(taken) >= 0).all()
        assert taken[-1] == utterances - 1


def test_on_real_narratives_only_the_rank_rule_errs(shared: Path) -> None:
    """The figures of docs/data.md: how often each rule binds a token to another word's utterance."""
    folder = shared / "samples/localized_narratives"
    errors = wrong_words(sorted(folder.glob("vidln_as_ln_*.jsonl")), Tokenizer(str(shared / "samples/tokenizers/t5")))
    assert errors.tokens > 1000
    assert errors.interval == 0
    assert errors.rank > 0.2 * errors.tokens
