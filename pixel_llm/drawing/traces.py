"""A caption and its trace over the image, word by word in one colour gradient."""

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pixel_llm.drawing.lettering import Colour
from pixel_llm.drawing.panels import Panel, fitted, sheet
from pixel_llm.structures import Word


@dataclass
class Trace:
    """A caption under a title; a word without a place is a text alone, the boxes of others in pixels of the image."""

    title: str
    words: Sequence[Word | str]


def draw_traces(image: NDArray[np.uint8], traces: Sequence[Trace]) -> Image.Image:
    """Panels side by side, each with the image, the trace through its words' centres, and the coloured caption.

    image: uint8[H, W, 3] RGB, the original image.
    """
    return sheet([_panel(image, trace) for trace in traces])


def gradient(position: float) -> Colour:
    """Colour at a position in [0, 1] from the first word (violet) over green to the last (red); dark enough to read."""
    r, g, b = colorsys.hsv_to_rgb(0.78 * (1 - position), 1.0, 0.85)
    return round(255 * r), round(255 * g), round(255 * b)


def _panel(image: NDArray[np.uint8], trace: Trace) -> Panel:
    picture = fitted(image)
    colours = [gradient(i / max(len(trace.words) - 1, 1)) for i in range(len(trace.words))]
    _draw_trace(picture, trace.words, colours, max(picture.size) / max(image.shape[:2]))
    texts = [word.text if isinstance(word, Word) else word for word in trace.words]
    return Panel(trace.title, picture, list(zip(texts, colours, strict=True)))


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
