"""Text on pictures: in a font that has its letters, in lines that fit a width.

Pillow's own font knows plain Latin letters alone. Others are written in the first font of this machine that has them
all; what none has is written as its plain letter (e for an accented one) or as a question mark, and a warning says so.
"""

import logging
import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache

from PIL import ImageDraw, ImageFont

Colour = tuple[int, int, int]
Piece = tuple[str, Colour]
Line = list[tuple[float, str, Colour]]

BLACK: Colour = (0, 0, 0)
GREY: Colour = (110, 110, 110)
_NO_LETTER = "\uffff"  # a code point that no font has: shows how a font draws what it lacks
_OTHER_FONTS = (
    "DejaVuSans.ttf",  # Linux: Latin, Greek, Cyrillic, Arabic, Hebrew
    "NotoSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc",
    "NotoSansCJKjp-Regular.otf",
    "DroidSansFallbackFull.ttf",
    "wqy-zenhei.ttc",
    "Arial Unicode.ttf",  # macOS
    "arial.ttf",  # Windows
    "msyh.ttc",
    "YuGothM.ttc",
    "malgun.ttf",
)

log = logging.getLogger(__name__)


def line_height(size: int) -> int:
    """Distance of two lines of text of a size, all in pixels."""
    return round(size * 1.35)


def text_width(text: str, size: int) -> float:
    """In pixels, as `write` will write it."""
    written, font = _lettered(text, size)
    return font.getlength(written)


def shortened(text: str, characters: int) -> str:
    """The text, or so much of its beginning."""
    return text if len(text) <= characters else text[:characters] + "..."


def write(pen: ImageDraw.ImageDraw, place: tuple[float, float], text: str, size: int, colour: Colour) -> None:
    """Write with the upper left corner of the line at a place xy."""
    written, font = _lettered(text, size)
    pen.text(place, written, fill=colour, font=font)


def wrap(pieces: Sequence[Piece], width: float, size: int) -> list[Line]:
    """Lines of (x, text, colour) no wider than `width`, at least one; a piece is broken only where none holds it."""
    lines: list[Line] = [[]]
    x, space = 0.0, text_width(" ", size)
    for text, colour in pieces:
        for part in _parts(text, width, size):
            length = text_width(part, size)
            if lines[-1] and x + length > width:
                lines.append([])
                x = 0.0
            lines[-1].append((x, part, colour))
            x += length + space
    return lines


def write_lines(pen: ImageDraw.ImageDraw, place: tuple[float, float], lines: Sequence[Line], size: int) -> None:
    """Write what `wrap` has made, its upper left corner at a place xy."""
    for row, line in enumerate(lines):
        for x, text, colour in line:
            write(pen, (place[0] + x, place[1] + row * line_height(size)), text, size, colour)


def _parts(text: str, width: float, size: int) -> list[str]:
    """A piece cut, where a line is too short for it, into parts that fit; not everyone writes with spaces."""
    parts = []
    while text and text_width(text, size) > width:
        fits = max(bisect_right(range(len(text)), width, key=lambda n: text_width(text[:n], size)) - 1, 1)
        parts.append(text[:fits])
        text = text[fits:]
    return [*parts, text] if text else parts


@lru_cache(maxsize=4096)
def _lettered(text: str, size: int) -> tuple[str, ImageFont.FreeTypeFont]:
    """The text as it can be written, and the font that lacks the fewest of its letters."""
    text = "".join(" " if character.isspace() else character for character in text)
    font = min(_fonts(size), key=lambda font: len(_lacking(text, font)))
    lacking = _lacking(text, font)
    if lacking:
        log.warning("no font on this machine has %s: written otherwise; Noto Sans CJK has most", "".join(lacking))
        text = "".join(_plain(character, font) if character in lacking else character for character in text)
    return text, font


def _plain(character: str, font: ImageFont.FreeTypeFont) -> str:
    """A letter without its marks, or a question mark."""
    plain = unicodedata.normalize("NFKD", character)
    kept = "".join(part for part in plain if not unicodedata.combining(part))
    return "?" if not kept or _lacking(kept, font) else kept


def _lacking(text: str, font: ImageFont.FreeTypeFont) -> list[str]:
    """The letters of a text that a font does not have, in order, each once."""
    return [character for character in dict.fromkeys(text) if not _has(font, character)]


@lru_cache(maxsize=65536)
def _has(font: ImageFont.FreeTypeFont, character: str) -> bool:
    drawn, missing = font.getmask(character), font.getmask(_NO_LETTER)
    return (drawn.size, bytes(drawn)) != (missing.size, bytes(missing))


@lru_cache
def _fonts(size: int) -> list[ImageFont.FreeTypeFont]:
    """Pillow's font, and those of the others that this machine has."""
    default = ImageFont.load_default(size)
    if not isinstance(default, ImageFont.FreeTypeFont):
        raise RuntimeError("this build of Pillow has no FreeType: install a Pillow wheel from the package registry")
    fonts = [default]
    for name in _OTHER_FONTS:
        try:
            fonts.append(ImageFont.truetype(name, size))
        except OSError:
            continue
    return fonts
