"""From JPEG bytes to the pixels that a model sees, and where those pixels lie in the image.

Resizing follows the published loader: bilinear without antialiasing, half-pixel centres, sizes cut to integers, so
that the longer side may come out one pixel short. Coordinates stay normalised; a view says what part of the image
it shows.
"""

import io
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from datamodules.pictures import reason, upright_rgb


@dataclass(frozen=True)
class View:
    """pixels: uint8 or float32[3, h, w].

    window: x0 y0 x1 y1 of the part of the image that is shown, in fractions of the image.
    flipped: left and right are exchanged.
    original_size: height and width of the whole image.
    """

    pixels: Tensor
    window: tuple[float, float, float, float]
    flipped: bool
    original_size: tuple[int, int]

    def points(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """float[..., 2] xy in fractions of the image -> of the view, clipped to [0, 1]; NaN stays."""
        x0, y0, x1, y1 = self.window
        moved = np.clip((points - (x0, y0)) / (x1 - x0, y1 - y0), 0, 1)
        return np.stack([1 - moved[..., 0], moved[..., 1]], axis=-1) if self.flipped else moved

    def boxes(self, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
        """float[..., 4] x0 y0 x1 y1 in fractions of the image -> of the view, clipped to [0, 1]; NaN stays."""
        corners = self.points(boxes.reshape(*boxes.shape[:-1], 2, 2))
        return np.concatenate([corners.min(-2), corners.max(-2)], axis=-1)


def decode_jpeg(data: bytes, name: str) -> Tensor:
    """JPEG (or any format of PIL) -> uint8[3, H, W] RGB, upright; name: the record, for the error.

    Grey, CMYK, palette and alpha images become RGB. Raises ValueError with one line for a truncated or foreign file.
    """
    try:
        with warnings.catch_warnings():
            # A photo of a hundred megapixels is no attack, and a broken EXIF block no broken picture.
            warnings.simplefilter("ignore")
            pixels = np.array(upright_rgb(Image.open(io.BytesIO(data))))
    except Exception as error:  # PIL raises nearly anything for a broken file
        raise ValueError(f"{name}: the image cannot be read ({reason(error)})") from None
    return torch.from_numpy(pixels).permute(2, 0, 1)


def resized_shape(height: int, width: int, shorter: int, longest: int | None) -> tuple[int, int]:
    """(height, width) with the shorter side at `shorter`, or less so that the longer stays within `longest`."""
    low, high = min(height, width), max(height, width)
    if longest is not None and high / low * shorter > longest:
        shorter = int(longest * low / high)
    shorter = max(shorter, 1)
    longer = max(int(shorter * high / low), 1)
    if longest is not None:
        longer = min(longer, longest)  # of a strip whose shorter side is a single pixel
    return (shorter, longer) if height < width else (longer, shorter)


def resize(pixels: Tensor, shape: tuple[int, int]) -> Tensor:
    """uint8 or float32[3, H, W] -> [3, h, w]; a uint8 image stays one, rounded."""
    if tuple(pixels.shape[-2:]) == shape:
        return pixels
    return F.interpolate(pixels[None], shape, mode="bilinear", align_corners=False)[0]


def crop(view: View, top: int, left: int, height: int, width: int) -> View:
    """The part of a view that starts at pixel (top, left)."""
    h, w = view.pixels.shape[-2:]
    x0, y0, x1, y1 = view.window
    sx, sy = (x1 - x0) / w, (y1 - y0) / h
    window = (x0 + left * sx, y0 + top * sy, x0 + (left + width) * sx, y0 + (top + height) * sy)
    pixels = view.pixels[:, top : top + height, left : left + width]
    return View(pixels, window, view.flipped, view.original_size)


def flip(view: View) -> View:
    """Left and right exchanged, of a view that shows whole columns in order."""
    return View(view.pixels.flip(-1), view.window, not view.flipped, view.original_size)


def whole_view(pixels: Tensor, canvas: int, original_size: tuple[int, int]) -> View:
    """The whole image, resized with its shape kept until the longer side fits the canvas."""
    shape = resized_shape(pixels.shape[-2], pixels.shape[-1], canvas, canvas)
    return View(resize(pixels, shape), (0.0, 0.0, 1.0, 1.0), False, original_size)


def random_view(
    pixels: Tensor,
    canvas: int,
    original_size: tuple[int, int],
    scale: tuple[float, float],
    flip_probability: float,
    rng: np.random.Generator,
) -> View:
    """The published augmentation: the longer side at a random multiple of the canvas, then a random crop to it."""
    side = int(canvas * rng.uniform(*scale))
    shape = resized_shape(pixels.shape[-2], pixels.shape[-1], side, side)
    view = View(resize(pixels, shape), (0.0, 0.0, 1.0, 1.0), False, original_size)
    height, width = min(shape[0], canvas), min(shape[1], canvas)
    top, left = int(rng.integers(shape[0] - height + 1)), int(rng.integers(shape[1] - width + 1))
    view = crop(view, top, left, height, width)
    return flip(view) if rng.random() < flip_probability else view
