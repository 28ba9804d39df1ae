"""Titled pictures with a coloured caption below, side by side on one sheet."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pixel_llm.drawing.lettering import BLACK, Line, Piece, line_height, shortened, wrap, write_lines

PANEL = 460  # longest side of the picture in a panel, in pixels
NARROWEST = 300  # a panel, however narrow its picture
MARGIN = 16
TEXT_SIZE = 17
_TITLE_SIZE = TEXT_SIZE + 2
_COLUMNS = 4
_LONGEST_TITLE = 130  # characters, about three lines


@dataclass
class Panel:
    """picture: as `fitted` makes it.  caption: pieces of text in their colours; lines are broken between them."""

    title: str
    picture: Image.Image
    caption: Sequence[Piece]

    @property
    def width(self) -> int:
        return max(self.picture.width, NARROWEST)


def fitted(image: NDArray[np.uint8], longest: int = PANEL) -> Image.Image:
    """uint8[H, W, 3] RGB -> the picture with its longer side at `longest` pixels."""
    scale = longest / max(image.shape[:2])
    height, width = (max(round(side * scale), 1) for side in image.shape[:2])
    return Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)


def sheet(panels: Sequence[Panel]) -> Image.Image:
    """Rows of at most four panels, the pictures of a row on one height."""
    title_lines = max(len(_title(panel)) for panel in panels)
    drawn = [_draw(panel, title_lines) for panel in panels]
    rows = [drawn[first : first + _COLUMNS] for first in range(0, len(drawn), _COLUMNS)]
    width = max(sum(panel.width + MARGIN for panel in row) for row in rows) + MARGIN
    height = sum(max(panel.height for panel in row) + MARGIN for row in rows) + MARGIN
    canvas = Image.new("RGB", (width, height), "white")
    top = MARGIN
    for row in rows:
        left = MARGIN
        for panel in row:
            canvas.paste(panel, (left, top))
            left += panel.width + MARGIN
        top += max(panel.height for panel in row) + MARGIN
    return canvas


def _draw(panel: Panel, title_lines: int) -> Image.Image:
    caption = wrap(panel.caption, panel.width, TEXT_SIZE)
    top = title_lines * line_height(_TITLE_SIZE) + 4
    below = top + panel.picture.height + 8
    canvas = Image.new("RGB", (panel.width, below + line_height(TEXT_SIZE) * len(caption)), "white")
    pen = ImageDraw.Draw(canvas)
    write_lines(pen, (0, 0), _title(panel), _TITLE_SIZE)
    canvas.paste(panel.picture, (0, top))
    write_lines(pen, (0, below), caption, TEXT_SIZE)
    return canvas


def _title(panel: Panel) -> list[Line]:
    words = shortened(panel.title, _LONGEST_TITLE).split()
    return wrap([(word, BLACK) for word in words], panel.width, _TITLE_SIZE)
