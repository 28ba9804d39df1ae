"""One image file of any kind -> the JPEG bytes that a shard holds.

An ordinary picture is stored byte for byte, so that preparing never loses quality; what a plain JPEG decoder would
show wrongly (turned, grey, CMYK, with a palette or transparency) is encoded again as an upright RGB picture.
"""

import io
import math
import warnings
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from PIL import Image

from datamodules.pictures import orientation, reason, upright_rgb

MAX_PIXELS = 25_000_000
JPEG_QUALITY = 95


class ImageError(ValueError):
    """A file that is no whole picture; the message is one line that names the file."""


class Change(StrEnum):
    """What was done to the file."""

    KEPT = "kept byte for byte"
    ENCODED = "encoded again as upright RGB"
    SHRUNK = f"shrunk to at most {MAX_PIXELS / 1e6:g} megapixels"


@dataclass(frozen=True)
class StoredImage:
    """jpeg: the bytes to store.  width, height: of the upright original, in pixels, also where it was shrunk."""

    jpeg: bytes
    width: int
    height: int
    change: Change


def to_jpeg(path: Path, max_pixels: int = MAX_PIXELS) -> StoredImage:
    """Reads, checks by decoding it whole, and where needed encodes an image file.

    Kept: a baseline or progressive RGB JPEG that is upright and has at most `max_pixels`. Anything else is encoded
    again; transparency is laid on white. Raises ImageError for a file that is truncated or no image.
    """
    try:
        data = path.read_bytes()
        with warnings.catch_warnings():
            # A picture of a hundred megapixels is no attack here; twice that is refused by PIL all the same.
            warnings.simplefilter("ignore")
            return _store(data, max_pixels)
    except Exception as error:
        # PIL raises nearly anything for a broken file: OSError, SyntaxError, struct.error, ValueError, zlib.error.
        raise ImageError(f"{path}: {reason(error)}") from error


def _store(data: bytes, max_pixels: int) -> StoredImage:
    image = Image.open(io.BytesIO(data))
    turned = orientation(image)
    width, height = image.size[::-1] if turned >= 5 else image.size
    small = width * height <= max_pixels
    if image.format == "JPEG" and image.mode == "RGB" and turned == 1 and small:
        _check_jpeg(image)
        return StoredImage(data, width, height, Change.KEPT)
    rgb = _decode(image, (width, height), max_pixels)
    change = Change.ENCODED if small else Change.SHRUNK
    return StoredImage(_encode(rgb), width, height, change)


def _check_jpeg(image: Image.Image) -> None:
    """Decodes all of the data at an eighth of the size: every coded coefficient is read, few pixels are made."""
    image.draft("RGB", (max(1, image.width // 8), max(1, image.height // 8)))
    image.load()


def _decode(image: Image.Image, size: tuple[int, int], max_pixels: int) -> Image.Image:
    """The upright RGB picture of at most `max_pixels`; a large JPEG never exists in memory at its full size.

    size: width and height of the upright original.
    """
    shrink = min(1.0, math.sqrt(max_pixels / (size[0] * size[1])))
    target = (max(1, int(size[0] * shrink)), max(1, int(size[1] * shrink)))
    if shrink < 1:
        image.draft(image.mode, target if image.size == size else target[::-1])
    rgb = upright_rgb(image)
    return rgb.resize(target, Image.Resampling.LANCZOS, reducing_gap=2.0) if rgb.size != target else rgb


def _encode(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()
