"""Boxes, clicks and masks that a person gives, checked against the photo that they are meant for."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from datamodules.pictures import reason, upright
from pixel_llm.coordinates import Box

Click = tuple[float, float]


def checked_box(box: Sequence[float], size: tuple[int, int]) -> Box:
    """A box x0 y0 x1 y1 in pixels of a photo of (height, width).

    ValueError with one line that says what is wrong: not four numbers, shares of the photo in the place of pixels,
    corners in another order, no area, or a part outside.
    """
    if len(box) != 4:
        raise ValueError(f"box {_text(box)}: {len(box)} numbers, a box has four, x0 y0 x1 y1")
    _check_pixels("box", box, size)
    x0, y0, x1, y1 = (float(value) for value in box)
    if x1 < x0 or y1 < y0:
        raise ValueError(f"box {_text(box)}: in the wrong order, give x0 y0 x1 y1 (left, top, right, bottom)")
    if x1 == x0 or y1 == y0:
        raise ValueError(f"box {_text(box)}: has no area")
    _check_inside("box", box, size)
    return x0, y0, x1, y1


def checked_clicks(clicks: Sequence[Sequence[float]], size: tuple[int, int]) -> list[Click]:
    """Clicks xy in pixels of a photo of (height, width); ValueError likewise."""
    for click in clicks:
        if len(click) != 2:
            raise ValueError(f"point {_text(click)}: {len(click)} numbers, a point has two, x y")
    _check_pixels("point", [value for click in clicks for value in click], size)
    for click in clicks:
        _check_inside("point", click, size)
    return [(float(x), float(y)) for x, y in clicks]


def spanned(clicks: Sequence[Click]) -> Box:
    """The box that clicks span; of a single one, or several in line, without an area."""
    xs, ys = zip(*clicks, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def click_shares(clicks: Sequence[Click], size: tuple[int, int]) -> list[Click]:
    """Clicks xy in pixels of a photo of (height, width) -> in [0, 1]."""
    return [(x / size[1], y / size[0]) for x, y in clicks]


def read_mask(file: Path, size: tuple[int, int]) -> NDArray[np.bool_]:
    """bool[h, w] of a picture that marks a region of a photo of (height, width).

    Marked is what is brighter than half of the brightest; in a picture with transparent parts, what is not so.
    OSError for a file that cannot be read, and ValueError with one line for one that is no picture, has another size,
    or marks nothing. A region may be the whole photo.
    """
    try:
        with Image.open(file) as image:
            values = _brightness(upright(image))
    except Exception as error:  # PIL raises nearly anything for a broken file
        if isinstance(error, OSError) and error.errno:
            raise
        raise ValueError(f"mask {file}: {reason(error)}") from None
    return checked_mask(values * 2 > values.max(), size, f"mask {file}")


def checked_mask(mask: NDArray[np.bool_], size: tuple[int, int], name: str = "mask") -> NDArray[np.bool_]:
    """bool[h, w] that marks a region of a photo of (height, width); ValueError with one line, which begins with the
    name, for what is no such array, or marks nothing.
    """
    mask = np.asarray(mask)
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise ValueError(f"{name}: {mask.dtype} of shape {list(mask.shape)}, not bool of height and width")
    if mask.shape != size:
        raise ValueError(f"{name}: {mask.shape[1]} x {mask.shape[0]} pixels, for a {_photo(size)}")
    if not mask.any():
        raise ValueError(f"{name}: marks nothing")
    return mask


def _brightness(image: Image.Image) -> NDArray[np.float64]:
    """float[h, w], not negative."""
    if image.has_transparency_data:
        alpha = np.asarray(image.convert("RGBA"), np.float64)[..., 3]
        if alpha.min() < 255:
            return alpha
    plain = image if image.mode[0] in "1LIF" and image.mode not in ("LA", "LAB") else image.convert("L")
    return np.maximum(np.nan_to_num(np.asarray(plain, np.float64)), 0)


def _check_pixels(what: str, values: Sequence[float], size: tuple[int, int]) -> None:
    if not all(math.isfinite(value) for value in values):
        raise ValueError(f"{what} {_text(values)}: not all of it is a number")
    if values and all(0 <= value <= 1 for value in values) and max(size) > 1:
        raise ValueError(f"{what} {_text(values)}: looks normalised to [0, 1], give pixels of the {_photo(size)}")


def _check_inside(what: str, values: Sequence[float], size: tuple[int, int]) -> None:
    height, width = size
    if min(values) < 0 or max(values[::2]) > width or max(values[1::2]) > height:
        where = "reaches beyond" if what == "box" else "outside"
        raise ValueError(f"{what} {_text(values)}: {where} the {_photo(size)}")


def _photo(size: tuple[int, int]) -> str:
    return f"photo of {size[1]} x {size[0]} pixels"


def _text(values: Sequence[float]) -> str:
    return " ".join(f"{value:g}" for value in values)
