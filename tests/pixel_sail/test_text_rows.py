"""Texts in the rows of their images: every word once, in its order, and seen by its own text alone."""

import pytest
import torch

from pixel_llm.pixel_sail.text_rows import TextRows

IMAGES = torch.tensor([2, 0, 2, 2])  # the second of three images has no text
WORDS = torch.tensor([[11, 12, 0, 0], [21, 22, 23, 0], [0, 0, 0, 0], [0, 41, 42, 43]])
VALID = WORDS != 0


@pytest.fixture
def rows() -> TextRows:
    return TextRows.of(IMAGES, VALID, 3)


def test_each_image_has_its_texts_behind_each_other(rows: TextRows) -> None:
    assert rows.pack(WORDS, -7).tolist() == [[21, 22, 23, -7, -7], [-7] * 5, [11, 12, 41, 42, 43]]
    assert rows.text.tolist() == [[1, 1, 1, -1, -1], [-1] * 5, [0, 0, 3, 3, 3]]
    assert rows.step[rows.text >= 0].tolist() == [0, 1, 2, 0, 1, 0, 1, 2]


def test_what_was_packed_comes_back_and_padding_is_zero(rows: TextRows) -> None:
    states = rows.pack(WORDS, -7)[:, :, None].float()
    assert rows.unpack(states)[:, :, 0].tolist() == WORDS.tolist()
    assert rows.unpack(states, first=1)[:, :, 0].tolist() == WORDS[:, 1:].tolist()


def test_a_word_sees_the_past_of_its_own_text(rows: TextRows) -> None:
    sees, number = rows.attend(), rows.text
    for row, place, other in (sees & (number >= 0)[:, :, None]).nonzero().tolist():
        assert number[row, place] == number[row, other]
        assert other <= place
    lengths = VALID.sum(1)
    assert (sees & (number >= 0)[:, :, None]).sum() == (lengths * (lengths + 1) // 2).sum()
    assert sees.diagonal(dim1=1, dim2=2).all()  # padding too: a row of attention without a key would be NaN


def test_no_text_at_all_leaves_one_empty_place() -> None:
    rows = TextRows.of(IMAGES, torch.zeros_like(VALID), 3)
    assert rows.text.shape == (3, 1)
    assert (rows.unpack(torch.ones(3, 1, 2)) == 0).all()
