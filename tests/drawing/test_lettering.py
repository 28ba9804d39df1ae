"""Letters on pictures: those that a font has, those that none has, and lines that fit."""

import logging
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image, ImageDraw

from pixel_llm.drawing import lettering
from pixel_llm.drawing.lettering import BLACK, text_width, wrap, write
from pixel_llm.drawing.panels import Panel, sheet


@pytest.fixture
def only_pillows_font(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine without any font: Pillow's own knows plain Latin letters alone."""
    caches = (lettering._fonts, lettering._lettered, lettering._has)
    monkeypatch.setattr(lettering, "_OTHER_FONTS", ())
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


def written(text: str) -> np.ndarray:
    canvas = Image.new("RGB", (300, 30), "white")
    write(ImageDraw.Draw(canvas), (0, 0), text, 17, BLACK)
    return np.asarray(canvas)


@pytest.mark.usefixtures("only_pillows_font")
def test_what_no_font_has_is_written_otherwise_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert (written("左の dog") == written("?? dog")).all()
        assert "左の" in caplog.text
        assert (written("décor") == written("decor")).all()
        assert len(caplog.records) == 2
        written("左の dog")
        assert len(caplog.records) == 2


@pytest.mark.usefixtures("only_pillows_font")
def test_plain_letters_are_written_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert (written("a\tred\nring") == written("a red ring")).all()
        assert (written("a red ring") < 128).any()
    assert not caplog.records


def test_a_font_of_the_machine_is_used_where_it_has_more_letters(caplog: pytest.LogCaptureFixture) -> None:
    try:
        font = lettering.ImageFont.truetype("DejaVuSans.ttf", 17)
    except OSError:
        pytest.skip("DejaVu Sans is not installed")
    canvas = Image.new("RGB", (300, 30), "white")
    ImageDraw.Draw(canvas).text((0, 0), "Жук → décor", fill="black", font=font)
    with caplog.at_level(logging.WARNING):
        assert (written("Жук → décor") == np.asarray(canvas)).all()
    assert not caplog.records


@pytest.mark.parametrize("text", ["a very long sentence of short words", "Donaudampfschifffahrt" * 9, "w" * 99, ""])
@pytest.mark.parametrize("width", [1, 40, 200])
def test_lines_fit_and_lose_nothing(text: str, width: float) -> None:
    lines = wrap([(word, BLACK) for word in text.split()], width, 17)
    assert lines
    assert "".join(part for line in lines for _, part, _ in line) == "".join(text.split())
    for line in lines:
        for x, part, _ in line:
            assert x + text_width(part, 17) <= width or len(part) == 1


def test_panels_are_as_wide_as_their_pictures_but_hold_a_title() -> None:
    landscape, portrait, strip = (Image.new("RGB", size) for size in ((460, 300), (320, 460), (5, 460)))
    widths = [sheet([Panel("title", picture, [])]).width - 2 * 16 for picture in (landscape, portrait, strip)]
    assert widths == [460, 320, 300]
    assert sheet([Panel("title", picture, []) for picture in (landscape, portrait)]).width == 460 + 320 + 3 * 16
