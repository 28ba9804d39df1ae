"""Pictures: their size, what they show, and the gradient."""

import numpy as np
import pytest

from pixel_llm.drawing.traces import Trace, draw_traces, gradient
from pixel_llm.structures import Word

GREY = np.full((60, 90, 3), 128, np.uint8)


def red(picture: np.ndarray) -> int:
    """Number of pixels that are far more red than anything else."""
    r, g, b = (picture[..., i].astype(int) for i in range(3))
    return int(((r - g > 80) & (r - b > 80)).sum())


@pytest.mark.parametrize("shape", [(60, 90), (90, 60), (40, 400)])
def test_panels_stand_side_by_side(shape: tuple[int, int]) -> None:
    image = np.full((*shape, 3), 128, np.uint8)
    panels = [Trace("a", [Word("word", (0, 0, 5, 5))]), Trace("b", []), Trace("c", ["word"] * 200)]
    one, three = draw_traces(image, panels[:1]), draw_traces(image, panels)
    assert three.width == 3 * one.width - 2 * 16
    assert three.height > one.height  # a long caption takes more lines
    shown = np.asarray(one)
    grey = (shown == 128).all(-1)
    assert grey.any(1).sum() == pytest.approx(460 * shape[0] / max(shape), abs=1)
    assert grey.any(0).sum() == pytest.approx(460 * shape[1] / max(shape), abs=1)


def test_a_word_without_a_place_is_written_but_not_drawn() -> None:
    words = ["first", "last"]  # the last word is red
    silent = np.asarray(draw_traces(GREY, [Trace("", words)]))
    placed = np.asarray(draw_traces(GREY, [Trace("", [words[0], Word("last", (10, 10, 40, 40))])]))
    assert silent.shape == placed.shape
    image = slice(16, 16 + 26 + 460 * 60 // 90)
    assert red(silent[image]) == 0
    assert red(placed[image]) > 50
    assert red(silent) > 50
    assert (silent[image.stop :] == placed[image.stop :]).all()


def test_a_word_is_drawn_where_it_is() -> None:
    picture = np.asarray(draw_traces(GREY, [Trace("", ["a", Word("b", (60, 0, 90, 30))])]))
    changed = np.asarray(draw_traces(GREY, [Trace("", ["a", "b"])])) != picture
    rows, columns = np.nonzero(changed.any(-1))
    scale = 460 / 90
    assert columns.min() == pytest.approx(16 + 60 * scale, abs=3)
    assert columns.max() == pytest.approx(16 + 90 * scale, abs=3)
    assert rows.max() - rows.min() == pytest.approx(30 * scale, abs=3)


def test_the_gradient_goes_from_violet_over_green_to_red() -> None:
    first, middle, last = gradient(0.0), gradient(0.5), gradient(1.0)
    assert last == (217, 0, 0)
    assert first[2] == 217
    assert first[0] > first[1] == 0
    assert middle.index(max(middle)) == 1
