"""Run-length encoded masks over a picture, as stencils to paint through."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFilter
from pycocotools import mask as coco_mask

from pixel_llm.run_lengths import Rle


def stencil(mask: Rle, size: tuple[int, int]) -> Image.Image:
    """A mask stretched over a picture of (width, height): 255 inside, 0 outside."""
    pixels: NDArray[np.uint8] = coco_mask.decode(mask) * np.uint8(255)
    return Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST)


def outline(mask: Rle, size: tuple[int, int]) -> Image.Image:
    """The same of its outermost two pixels alone."""
    whole = stencil(mask, size)
    return ImageChops.subtract(whole, whole.filter(ImageFilter.MinFilter(5)))
