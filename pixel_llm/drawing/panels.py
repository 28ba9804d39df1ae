"""Titled pictures with a coloured caption below, side by side on one sheet."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

PANEL = 460  # longest side of the picture in a panel, in pixels
_MARGIN = 16
_COLUMNS = 4
_TEXT_SIZE = 17
_LINE = round(_TEXT_SIZE * 1.35)
_LONGEST_TITLE = 130  # characters, about three lines
Colour = tuple[int, int, int]


@dataclass
class Panel:
    """picture: as `fitted` makes it.  caption: pieces of text in their colours; lines are broken between them."""

    title: str
    picture: Image.Image
    caption: Sequence[tuple[str, Colour]]


def fitted(image: NDArray[np.uint8]) -> Image.Image:
    """uint8[H, W, 3] RGB -> the picture with its longer side as long as a panel."""
    scale = PANEL / max(image.shape[:2])
    height, width = (max(round(side * scale), 1) for side in image.shape[:2])
    return Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)


def sheet(panels: Sequence[Panel]) -> Image.Image:
    """Rows of at most four panels, the pictures of a row on one height."""
    title_lines = max(len(_wrap(_title(panel), _font(_TEXT_SIZE + 2))) for panel in panels)
    drawn = [_draw(panel, title_lines) for panel in panels]
    rows = [drawn[first : first + _COLUMNS] for first in range(0, len(drawn), _COLUMNS)]
    heights = [max(panel.height for panel in row) for row in rows]
    size = (len(rows[0]) * (PANEL + _MARGIN) + _MARGIN, sum(heights) + _MARGIN * (len(rows) + 1))
    canvas = Image.new("RGB", size, "white")
    top = _MARGIN
    for row, height in zip(rows, heights, strict=True):
        for column, panel in enumerate(row):
            canvas.paste(panel, (_MARGIN + column * (PANEL + _MARGIN), top))
        top += height + _MARGIN
    return canvas


def _draw(panel: Panel, title_lines: int) -> Image.Image:
    title, font = _font(_TEXT_SIZE + 2), _font(_TEXT_SIZE)
    words, pieces = _title(panel), [text for text, _ in panel.caption]
    caption = _wrap(pieces, font)
    top = title_lines * _LINE + 4
    below = top + panel.picture.height + 8
    canvas = Image.new("RGB", (PANEL, below + _LINE * len(caption)), "white")
    pen = ImageDraw.Draw(canvas)
    for row, line in enumerate(_wrap(words, title)):
        for x, index in line:
            pen.text((x, row * _LINE), words[index], fill="black", font=title)
    canvas.paste(panel.picture, (0, top))
    for row, line in enumerate(caption):
        for x, index in line:
            pen.text((x, below + row * _LINE), pieces[index], fill=panel.caption[index][1], font=font)
    return canvas


def _title(panel: Panel) -> list[str]:
    text = panel.title
    return (text if len(text) <= _LONGEST_TITLE else text[:_LONGEST_TITLE] + "...").split()


def _wrap(pieces: Sequence[str], font: ImageFont.FreeTypeFont) -> list[list[tuple[float, int]]]:
    """Lines of (x, index of the piece) that fit a panel, at least one."""
    lines: list[list[tuple[float, int]]] = [[]]
    x, space = 0.0, font.getlength(" ")
    for index, piece in enumerate(pieces):
        length = font.getlength(piece)
        if lines[-1] and x + length > PANEL:
            lines.append([])
            x = 0.0
        lines[-1].append((x, index))
        x += length + space
    return lines


def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError("this build of Pillow has no FreeType: install a Pillow wheel from the package registry")
    return font
