"""Masks as COCO's compressed run-length encodings: from pixels, what box is around one, and how far two overlap.

Free of torch, so that a command that only scores files starts at once.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

Rle = Mapping[str, Any]


def encoded(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """The encoding of a mask bool[H, W], `counts` as text."""
    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(mask.shape), "counts": rle["counts"].decode()}


def mask_box(mask: Rle) -> tuple[float, float, float, float]:
    """x0 y0 x1 y1 around the pixels of a mask, its edges after the last pixels; all 0 for an empty mask."""
    x, y, width, height = coco_mask.toBbox(mask).tolist()
    return x, y, x + width, y + height


def mask_overlap(a: Rle, b: Rle) -> tuple[int, int]:
    """Pixels in both masks and pixels in either, without decoding the run-length encodings.

    Raises ValueError for masks of different sizes.
    """
    if list(a["size"]) != list(b["size"]):
        raise ValueError(f"masks of {list(a['size'])} and {list(b['size'])} (height, width) cannot be compared")
    both = int(coco_mask.area(coco_mask.merge([a, b], intersect=True)))
    return both, int(coco_mask.area(a)) + int(coco_mask.area(b)) - both
