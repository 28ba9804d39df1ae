"""Alignment of captions and utterances: exact where they agree, sensible where they do not."""

import json
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.formats.localized_narratives import Utterance, parse_narrative
from datamodules.prepare.word_times import Alignment, time_words

WORDS = st.one_of(
    st.sampled_from(
        ["the", "a", "man", "the", "כלב", "شجرة", "犬", "🐕", "don't", "l'été", "sky.", "-", "T-shirt", "ﬁsh"]
    ),
    st.text(st.characters(codec="utf-8", exclude_categories=["Z", "C"]), min_size=1, max_size=8).filter(
        lambda word: len(word.split()) == 1 and word.split()[0] == word
    ),
)
TIMES = st.floats(0, 1000)
INTERVALS = st.tuples(TIMES, TIMES).map(sorted)
SAID = st.lists(st.tuples(WORDS, INTERVALS), max_size=30)


def utterances(*said: tuple[str, float, float]) -> list[Utterance]:
    return [Utterance(*word) for word in said]


def times(alignment: Alignment, caption: str) -> dict[str, tuple[float | None, float | None]]:
    return {caption[begin:end]: (start, stop) for begin, end, start, stop in alignment.words}


@settings(deadline=None)
@given(SAID, st.sampled_from([" ", "  ", "\n", "\u3000"]))
def test_where_text_and_utterances_agree_every_word_has_its_own_interval(
    said: list[tuple[str, list[float]]], blank: str
) -> None:
    caption = blank.join(word for word, _ in said)
    alignment = time_words(caption, [Utterance(word, *interval) for word, interval in said])
    assert alignment.dropped == 0
    assert [caption[begin:end] for begin, end, _, _ in alignment.words] == [word for word, _ in said]
    assert [[start, stop] for _, _, start, stop in alignment.words] == [interval for _, interval in said]


@settings(deadline=None)
@given(SAID, st.data())
def test_case_punctuation_and_missing_words_do_not_move_the_others(
    said: list[tuple[str, list[float]]], data: st.DataObject
) -> None:
    """Words told apart by a number, some cut from the text and some from the speech."""
    numbered = [(f"word{i}", interval) for i, (_, interval) in enumerate(said)]
    in_text = [data.draw(st.booleans()) for _ in numbered]
    in_speech = [data.draw(st.booleans()) for _ in numbered]
    caption = " ".join(f"“{w.title()}”," for (w, _), kept in zip(numbered, in_text, strict=True) if kept)
    spoken = [Utterance(w, *t) for (w, t), kept in zip(numbered, in_speech, strict=True) if kept]
    wanted = [t if s else [None, None] for (_, t), c, s in zip(numbered, in_text, in_speech, strict=True) if c]
    alignment = time_words(caption, spoken)
    assert [[start, stop] for _, _, start, stop in alignment.words] == wanted
    assert alignment.dropped == sum(s and not c for c, s in zip(in_text, in_speech, strict=True))


def test_a_phrase_shares_its_interval_by_length() -> None:
    caption = "In this image, we"
    alignment = time_words(caption, utterances((" in this  image", 1.0, 2.1), ("we", 3, 4)))
    found = times(alignment, caption)
    assert found["In"] == pytest.approx((1.0, 1.2))
    assert found["this"] == pytest.approx((1.2, 1.6))
    assert found["image,"] == pytest.approx((1.6, 2.1))
    assert found["image,"][1] == 2.1
    assert found["we"] == (3, 4)


def test_words_that_are_cut_differently_are_joined() -> None:
    caption = "a dog running on the sidewalk"
    said = utterances(
        ("a dog", 0, 1), ("runn", 1, 2), ("ing", 2, 2.5), ("on the", 3, 4), ("side", 4, 5), ("walk", 6, 7)
    )
    alignment = time_words(caption, said)
    assert times(alignment, caption)["running"] == (1, 2.5)
    assert times(alignment, caption)["sidewalk"] == (4, 7)
    assert alignment.dropped == 0
    caption = "cannot see"
    alignment = time_words("can not see", utterances(("cannot", 0, 6), ("see", 6, 7)))
    assert [word[2:] for word in alignment.words] == [(0, 3), (3, 6), (6, 7)]


def test_words_that_nobody_said_have_no_time_and_foreign_utterances_are_dropped() -> None:
    alignment = time_words("a big dog", utterances(("a", 0, 1), ("um", 1, 2), ("", 2, 2), ("dog", 2, 3)))
    assert [word[2:] for word in alignment.words] == [(0, 1), (None, None), (2, 3)]
    assert alignment.dropped == 2


def test_an_utterance_that_ends_before_it_starts_is_dropped() -> None:
    alignment = time_words("a dog", utterances(("a", 5, 4), ("dog", 1, 2)))
    assert [word[2:] for word in alignment.words] == [(None, None), (1, 2)]
    assert alignment.dropped == 1


def test_of_repeated_words_the_nearer_one_is_meant() -> None:
    alignment = time_words("a man and a dog", utterances(("a", 0, 1), ("dog", 1, 2)))
    assert [word[2] for word in alignment.words] == [None, None, None, 0, 1]


@pytest.mark.parametrize(("caption", "said"), [("", [("a", 0, 1)]), ("  \n", []), ("a", []), ("", [])])
def test_empty_sides(caption: str, said: list[tuple[str, float, float]]) -> None:
    alignment = time_words(caption, utterances(*said))
    assert alignment.dropped == len(said)
    assert all(word[2] is None for word in alignment.words)


@pytest.mark.parametrize("vocabulary", [1, 40, 5000])
def test_five_thousand_words_take_well_under_two_seconds(vocabulary: int) -> None:
    words = [f"w{i * i % vocabulary}" for i in range(5000)]
    said = [Utterance(word, i, i + 1) for i, word in enumerate(words) if i % 7]
    begin = time.process_time()
    alignment = time_words(" ".join(words), said)
    assert time.process_time() - begin < 1.5
    assert alignment.dropped == 0
    assert sum(word[2] is not None for word in alignment.words) == len(said)


@pytest.mark.shared
def test_published_records_lose_nothing_but_punctuation_of_its_own(shared: Path) -> None:
    raw = json.loads((shared / "golden/published/ln_annotations.json").read_text())
    for record in raw:
        narrative = parse_narrative(json.dumps(record).encode())
        alignment = time_words(narrative.caption, narrative.utterances)
        untimed = {narrative.caption[begin:end] for begin, end, start, _ in alignment.words if start is None}
        blank = sum(not said.text.strip() for said in narrative.utterances)
        if len(narrative.utterances) < 40:
            assert (untimed, alignment.dropped) == (set(), blank)
        else:  # the caption goes on where the utterances jump to its last word
            assert alignment.dropped == 0
