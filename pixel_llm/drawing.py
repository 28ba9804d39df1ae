"""Pictures of what a model sees: a caption and its trace over the image, word by word in one colour gradient."""

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pixel_llm.structures import Word

_PANEL = 460  # longest side of the image in a panel, in pixels
_MARGIN = 16
_TEXT_SIZE = 17
Colour = tuple[int, int, int]


@dataclass
class Panel:
    """A titled copy of the image with a caption; boxes of the words in pixels of the image, None without a place."""

    title: str
    words: Sequence[Word | str]


def draw_traces(image: NDArray[np.uint8], panels: Sequence[Panel]) -> Image.Image:
    """Panels side by side, each with the image, the trace through its words' centres, and the coloured caption.

    image: uint8[H, W, 3] RGB, the original image.
    """
    drawn = [_draw_panel(image, panel) for panel in panels]
    width = sum(p.width for p in drawn) + _MARGIN * (len(drawn) + 1)
    canvas = Image.new("RGB", (width, max(p.height for p in drawn) + 2 * _MARGIN), "white")
    x = _MARGIN
    for panel in drawn:
        canvas.paste(panel, (x, _MARGIN))
        x += panel.width + _MARGIN
    return canvas


def gradient(position: float) -> Colour:
    """Colour at a position in [0, 1] from the first word (violet) over green to the last (red); dark enough to read."""
    r, g, b = colorsys.hsv_to_rgb(0.78 * (1 - position), 1.0, 0.85)
    return round(255 * r), round(255 * g), round(255 * b)


def _draw_panel(image: NDArray[np.uint8], panel: Panel) -> Image.Image:
    scale = _PANEL / max(image.shape[:2])
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    picture = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
    colours = [gradient(i / max(len(panel.words) - 1, 1)) for i in range(len(panel.words))]
    _draw_trace(picture, panel.words, colours, scale)
    title, font = _font(_TEXT_SIZE + 2), _font(_TEXT_SIZE)
    lines = _wrap(panel.words, font, _PANEL)
    line_height = round(_TEXT_SIZE * 1.35)
    canvas = Image.new("RGB", (_PANEL, _PANEL + 2 * line_height + line_height * len(lines)), "white")
    pen = ImageDraw.Draw(canvas)
    pen.text((0, 0), panel.title, fill="black", font=title)
    canvas.paste(picture, (0, line_height + 4))
    top = line_height + 4 + picture.height + 8
    for row, line in enumerate(lines):
        for x, index in line:
            pen.text((x, top + row * line_height), _text(panel.words[index]), fill=colours[index], font=font)
    return canvas.crop((0, 0, _PANEL, top + len(lines) * line_height))


def _draw_trace(picture: Image.Image, words: Sequence[Word | str], colours: Sequence[Colour], scale: float) -> None:
    """Faint boxes, and a line with a light rim through the centres of the words that have a place."""
    pen = ImageDraw.Draw(picture, "RGBA")
    placed = [(word, colour) for word, colour in zip(words, colours, strict=True) if isinstance(word, Word)]
    centres = []
    for word, colour in placed:
        x0, y0, x1, y1 = (v * scale for v in word.box)
        pen.rectangle((x0, y0, x1, y1), outline=(*colour, 90))
        centres.append(((x0 + x1) / 2, (y0 + y1) / 2))
    for width, rim in ((6, True), (3, False)):
        for (a, b), (_, colour) in zip(pairwise(centres), placed[1:], strict=True):
            pen.line((*a, *b), fill=(255, 255, 255, 200) if rim else colour, width=width)
    for (x, y), (_, colour) in zip(centres, placed, strict=True):
        pen.ellipse((x - 5, y - 5, x + 5, y + 5), fill=colour, outline="white")


def _wrap(words: Sequence[Word | str], font: ImageFont.FreeTypeFont, width: int) -> list[list[tuple[float, int]]]:
    """Lines of (x, index of the word) that fit a width in pixels."""
    lines: list[list[tuple[float, int]]] = [[]]
    x, space = 0.0, font.getlength(" ")
    for index, word in enumerate(words):
        length = font.getlength(_text(word))
        if lines[-1] and x + length > width:
            lines.append([])
            x = 0.0
        lines[-1].append((x, index))
        x += length + space
    return lines


def _text(word: Word | str) -> str:
    return word.text if isinstance(word, Word) else word


def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError("this build of Pillow has no FreeType: install a Pillow wheel from the package registry")
    return font
