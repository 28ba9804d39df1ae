"""Boxes written as tokens come back with at most half a bin of error, and what is no box is not read as one."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.location_text import BinTokens, LocationText, RawString
from datamodules.tokenizer import Tokenizer, train_tokenizer
from tests.tiny import toy_referring

WAYS = [RawString(), RawString(digits=3), BinTokens(), BinTokens(bins=7)]
UNIT = st.floats(0, 1)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """Of a corpus without a digit, as the toy world's narratives are."""
    return train_tokenizer(["a small red ring left of the blue cross"] * 3, 64)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: f"{type(way).__name__}{way.bins}")
@given(st.tuples(UNIT, UNIT), st.tuples(UNIT, UNIT))
def test_a_box_comes_back(way: LocationText, tokenizer: Tokenizer, x: tuple, y: tuple) -> None:
    box = (min(x), min(y), max(x), max(y))
    ids = way.write(box, tokenizer)
    assert all(0 <= token < way.vocabulary_size(tokenizer) for token in ids)
    assert not {tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id} & set(ids)
    assert way.read(ids, tokenizer) == pytest.approx(box, abs=0.5 / way.bins + 1e-9)


def test_what_is_outside_the_image_is_written_at_its_edge(tokenizer: Tokenizer) -> None:
    for way in WAYS:
        read = way.read(way.write((-0.5, -1e-9, 1.0, 7.0), tokenizer), tokenizer)
        assert read == pytest.approx((0, 0, 1, 1), abs=0.5 / way.bins + 1e-9)


@pytest.mark.parametrize("way", [RawString(), BinTokens()], ids=["string", "bins"])
@given(data=st.data())
def test_whatever_is_written_is_a_box_in_the_image_or_none(way: LocationText, tokenizer: Tokenizer, data) -> None:
    ids = data.draw(st.lists(st.integers(2, way.vocabulary_size(tokenizer) - 1), max_size=14))
    box = way.read(ids, tokenizer)
    if box is not None:
        assert 0 < box[0] <= box[2] < 1
        assert 0 < box[1] <= box[3] < 1
        assert len(ids) >= 4


def test_two_corners_in_any_order_are_a_box(tokenizer: Tokenizer) -> None:
    for way in WAYS:
        assert way.read(way.write((0.9, 0.2, 0.1, 0.6), tokenizer), tokenizer) == way.read(
            way.write((0.1, 0.2, 0.9, 0.6), tokenizer), tokenizer
        )


def test_a_string_is_the_text_that_it_looks_like(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(RawString().write((0.071, 0.459, 0.31, 0.929), tokenizer))[0] == "07 45 31 92"
    for text in ("", "07 45 31", "07 45 31 92 11", "07 45 31 9", "07 45 31 ring", "07 45 31 920", "-7 45 31 92"):
        assert RawString().read(tokenizer.encode(text)[0], tokenizer) is None


def test_words_and_bins_do_not_mix(tokenizer: Tokenizer) -> None:
    way, word = BinTokens(), tokenizer.vocabulary_size - 1
    ids = way.write((0.1, 0.2, 0.3, 0.4), tokenizer)
    for wrong in ([], ids[:3], [*ids, ids[0]], [word, *ids[1:]], [*ids[:3], way.vocabulary_size(tokenizer)]):
        assert way.read(wrong, tokenizer) is None


def test_a_tokenizer_that_lacks_a_digit_is_refused(tokenizer: Tokenizer) -> None:
    lacking = Tokenizer.from_json(tokenizer.to_json().replace('"7"', '"seven"'))
    for way in WAYS:
        way.check(tokenizer)
    BinTokens().check(lacking)
    with pytest.raises(ValueError, match="this tokenizer cannot write the locations of RawString"):
        RawString().check(lacking)


@pytest.mark.shared
@pytest.mark.parametrize("name", ["t5", "bert-base-uncased"])
def test_released_tokenizers_can_write_strings(shared: Path, name: str) -> None:
    way, tokenizer = RawString(digits=3), Tokenizer(str(shared / "samples/tokenizers" / name))
    way.check(tokenizer)
    box = (0.0005, 0.4565, 0.7895, 0.9995)  # middles of bins
    assert way.read(way.write(box, tokenizer), tokenizer) == pytest.approx(box)


@pytest.mark.parametrize("way", [RawString(), BinTokens(bins=32)], ids=["string", "bins"])
def test_the_decoder_writes_what_the_query_in_the_prompt_names(way: LocationText, toy: Path) -> None:
    data = toy_referring(toy, location_text=way, context_prompt="")
    for loader in (data.train_dataloader(), data.test_dataloader()):
        batch = next(iter(loader))
        assert batch.targets is not None
        assert batch.prompts.context is not None
        for row, reference in enumerate(batch.references):
            assert data.tokenizer.decode(batch.prompts.context[row].tolist())[0] == reference.caption
            first, *ids = batch.targets.tokens[row].tolist()
            end = ids.index(data.tokenizer.eos_id)
            assert first == data.tokenizer.bos_id
            read = way.read(ids[:end], data.tokenizer)
            assert read == pytest.approx(reference.targets[0], abs=0.5 / way.bins + 1e-6)
            assert batch.targets.located[row].nonzero().tolist() == [[1 + end]]


def test_the_query_needs_a_place(toy: Path) -> None:
    with pytest.raises(ValueError, match="the query needs a context_prompt"):
        toy_referring(toy, location_text=BinTokens())
