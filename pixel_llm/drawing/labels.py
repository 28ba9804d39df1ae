"""Labels on a picture, light letters on a colour, and a legend of numbered sentences in the same colours."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from pixel_llm.drawing.lettering import GREY, Colour, Line, line_height, shortened, text_width, wrap, write, write_lines

_SIZE = 17
_PADDING = 5
_LINE = line_height(_SIZE)
_HEIGHT = _LINE + 2
_COLUMN = 280  # narrowest column of a legend
_GAP = 6
_LONGEST = 200  # characters of a text


@dataclass
class Entry:
    """A line of a legend; the note stands in grey behind the text."""

    number: int
    text: str
    note: str
    colour: Colour


def label_size(text: str) -> tuple[float, float]:
    """(width, height) of a label in pixels."""
    return text_width(text, _SIZE) + 2 * _PADDING, _HEIGHT


def draw_label(pen: ImageDraw.ImageDraw, place: tuple[float, float], text: str, colour: Colour) -> None:
    """A label with its upper left corner at a place xy."""
    width, height = label_size(text)
    x, y = place
    pen.rounded_rectangle((x, y, x + width - 1, y + height - 1), radius=4, fill=colour)
    write(pen, (x + _PADDING, y + 1), text, _SIZE, (255, 255, 255))


def draw_legend(entries: Sequence[Entry], width: int) -> Image.Image:
    """Entries in as many columns as the width holds, in order from top to bottom."""
    columns = max(min(width // _COLUMN, len(entries)), 1)
    column = width / columns
    text_left = max((label_size(str(e.number))[0] for e in entries), default=0) + _GAP
    texts = [_lines(entry, column - text_left - 2 * _GAP) for entry in entries]
    heights = [len(lines) * _LINE + _GAP for lines in texts]
    places = _flow(heights, columns)
    bottom = max((top + height for (_, top), height in zip(places, heights, strict=True)), default=0)
    canvas = Image.new("RGB", (width, bottom), "white")
    pen = ImageDraw.Draw(canvas)
    for entry, lines, (number, top) in zip(entries, texts, places, strict=True):
        left = number * column + text_left
        draw_label(pen, (left - _GAP - label_size(str(entry.number))[0], top), str(entry.number), entry.colour)
        write_lines(pen, (left, top + 1), lines, _SIZE)
    return canvas


def _lines(entry: Entry, width: float) -> list[Line]:
    words = [(word, entry.colour) for word in shortened(entry.text, _LONGEST).split()]
    return wrap([*words, *((word, GREY) for word in shortened(entry.note, _LONGEST).split())], width, _SIZE)


def _flow(heights: Sequence[int], columns: int) -> list[tuple[int, int]]:
    """(column, top) of each entry, the columns about equally long."""
    full = sum(heights) / columns
    places, column, top = [], 0, 0
    for height in heights:
        if top and top + height / 2 > full and column + 1 < columns:
            column, top = column + 1, 0
        places.append((column, top))
        top += height
    return places
