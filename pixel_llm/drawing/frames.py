"""Boxes over a picture."""

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw

from pixel_llm.coordinates import Box
from pixel_llm.drawing.lettering import Colour


def draw_frame(picture: Image.Image, size: tuple[int, int], box: Sequence[float], colour: Colour) -> None:
    """A box with a light rim; what lies outside is drawn at the edge, a box that is no number not at all.

    size: (height, width) of the original image, to whose pixels the box refers.
    """
    placed = on_picture(picture, size, box)
    if placed is None:
        return
    x0, y0, x1, y1 = placed
    pen = ImageDraw.Draw(picture)
    pen.rectangle((x0 - 1, y0 - 1, x1 + 1, y1 + 1), outline="white", width=5)
    pen.rectangle((x0, y0, x1, y1), outline=colour, width=3)


def on_picture(picture: Image.Image, size: tuple[int, int], box: Sequence[float]) -> Box | None:
    """A box in pixels of an image of (height, width) -> in pixels of the picture, corners in order, within it.

    None for a box that is no number.
    """
    if not all(math.isfinite(value) for value in box):
        return None
    xs = sorted(min(max(x * picture.width / size[1], 0), picture.width - 1) for x in box[::2])
    ys = sorted(min(max(y * picture.height / size[0], 0), picture.height - 1) for y in box[1::2])
    return xs[0], ys[0], xs[1], ys[1]
