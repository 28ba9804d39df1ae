"""Boxes with their sentences over the image, each pair in a colour of its own.

The sentences stand beside their boxes as long as all find a place there without covering each other or another
object. Where they do not, numbers stand there, and the sentences in a legend below the picture.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pixel_llm.coordinates import Box
from pixel_llm.drawing.frames import draw_frame, on_picture
from pixel_llm.drawing.label_places import Place, label_places, number_places
from pixel_llm.drawing.labels import Entry, draw_label, draw_legend, label_size
from pixel_llm.drawing.lettering import Colour
from pixel_llm.drawing.masks import outline
from pixel_llm.drawing.panels import NARROWEST, Panel, fitted, sheet
from pixel_llm.run_lengths import Rle

_ALONE, _BESIDE = 880, 640  # longest side of a picture, in pixels
_CLICK = 7  # radius
_GAP = 10  # between picture and legend
_NOWHERE: Box = (0.0, 0.0, 0.0, 0.0)
# Far from each other, and dark enough for white letters on them.
_COLOURS: list[Colour] = [
    (214, 28, 40), (16, 100, 205), (18, 130, 50), (200, 80, 0), (135, 45, 185), (0, 125, 135),
    (205, 20, 130), (125, 75, 40), (95, 110, 0), (60, 60, 160), (150, 20, 75), (70, 80, 90),
]  # fmt: skip


@dataclass
class CaptionedBox:
    """A box x0 y0 x1 y1 in pixels of the original image, or clicks xy in its place, with what was said of it.

    number: from 1, chooses the colour.  note: in grey behind the sentence, such as a score.
    mask: of the region, run-length encoded; its outline is drawn in place of the box.
    """

    number: int
    box: Box
    caption: str
    note: str = ""
    clicks: Sequence[tuple[float, float]] = ()
    mask: Rle | None = None

    @property
    def colour(self) -> Colour:
        return _COLOURS[(self.number - 1) % len(_COLOURS)]

    @property
    def text(self) -> str:
        return f"{self.caption} {self.note}".strip()


@dataclass
class View:
    """One panel: a title, and what is drawn over the image."""

    title: str
    boxes: Sequence[CaptionedBox]


def draw_captioned_boxes(image: NDArray[np.uint8], size: tuple[int, int], views: Sequence[View]) -> Image.Image:
    """Views of an image side by side, all with sentences at the boxes or all with numbers; a single one is larger.

    image: uint8[h, w, 3] RGB in any resolution.  size: (height, width) of the original image, to whose pixels the
    boxes refer.
    """
    picture = fitted(image, _ALONE if len(views) == 1 else _BESIDE)
    placed = [[_place(picture, size, box) for box in view.boxes] for view in views]
    found = [
        label_places([label_size(box.text) for box in view.boxes], boxes, picture.size)
        for view, boxes in zip(views, placed, strict=True)
    ]
    places = [beside for beside in found if beside is not None]
    drawn = [_with_frames(picture, size, view.boxes) for view in views]
    if len(places) == len(views):
        for view, canvas, beside in zip(views, drawn, places, strict=True):
            _draw_labels(canvas, [box.text for box in view.boxes], beside, view.boxes)
    else:
        numbered = zip(drawn, [view.boxes for view in views], placed, strict=True)
        drawn = [_with_numbers(*row) for row in numbered]
    return sheet([Panel(view.title, canvas, []) for view, canvas in zip(views, drawn, strict=True)])


def _place(picture: Image.Image, size: tuple[int, int], box: CaptionedBox) -> Box:
    """What labels keep off, in pixels of the picture: the box, or the dots of clicks."""
    x0, y0, x1, y1 = on_picture(picture, size, box.box) or _NOWHERE
    rim = _CLICK if box.clicks else 0
    return x0 - rim, y0 - rim, x1 + rim, y1 + rim


def _with_frames(picture: Image.Image, size: tuple[int, int], boxes: Sequence[CaptionedBox]) -> Image.Image:
    """A copy of the picture with a frame or an outline for every box, small ones on top, or a dot for every click."""
    canvas = picture.copy()
    pen = ImageDraw.Draw(canvas)
    for box in sorted(boxes, key=lambda box: -_area(box.box)):
        if box.mask is not None:
            canvas.paste(box.colour, (0, 0), outline(box.mask, canvas.size))
        elif not box.clicks:
            draw_frame(canvas, size, box.box, box.colour)
        for x, y in box.clicks:
            x, y = x * canvas.width / size[1], y * canvas.height / size[0]
            pen.ellipse((x - _CLICK, y - _CLICK, x + _CLICK, y + _CLICK), fill=box.colour, outline="white", width=2)
    return canvas


def _with_numbers(canvas: Image.Image, boxes: Sequence[CaptionedBox], placed: Sequence[Box]) -> Image.Image:
    """Numbers at the boxes, and what they mean in a legend below."""
    numbers = [str(box.number) for box in boxes]
    places = number_places([label_size(number) for number in numbers], placed, canvas.size)
    _draw_labels(canvas, numbers, places, boxes)
    entries = [Entry(box.number, box.caption, box.note, box.colour) for box in boxes]
    legend = draw_legend(entries, max(canvas.width, NARROWEST))
    both = Image.new("RGB", (legend.width, canvas.height + _GAP + legend.height), "white")
    both.paste(canvas, (0, 0))
    both.paste(legend, (0, canvas.height + _GAP))
    return both


def _draw_labels(
    canvas: Image.Image, texts: Sequence[str], places: Sequence[Place], boxes: Sequence[CaptionedBox]
) -> None:
    pen = ImageDraw.Draw(canvas)
    for text, place, box in zip(texts, places, boxes, strict=True):
        draw_label(pen, place, text, box.colour)


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
