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

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_PIXELS = 25_000_000
JPEG_QUALITY = 95
_ORIENTATION = 0x0112


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
        raise ImageError(f"{path}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image of a known kind"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def _store(data: bytes, max_pixels: int) -> StoredImage:
    image = Image.open(io.BytesIO(data))
    orientation = _orientation(image)
    width, height = image.size[::-1] if orientation >= 5 else image.size
    small = width * height <= max_pixels
    if image.format == "JPEG" and image.mode == "RGB" and orientation == 1 and small:
        _check_jpeg(image)
        return StoredImage(data, width, height, Change.KEPT)
    rgb = _decode(image, orientation, max_pixels)
    change = Change.ENCODED if small else Change.SHRUNK
    return StoredImage(_encode(rgb), width, height, change)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 where it is absent or means nothing."""
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a broken EXIF block does not make a broken picture
        return 1
    return found if found in range(1, 9) else 1


def _check_jpeg(image: Image.Image) -> None:
    """Decodes all of the data at an eighth of the size: every coded coefficient is read, few pixels are made."""
    image.draft("RGB", (max(1, image.width // 8), max(1, image.height // 8)))
    image.load()


def _decode(image: Image.Image, orientation: int, max_pixels: int) -> Image.Image:
    """The upright RGB picture of at most `max_pixels`; a large JPEG never exists in memory at its full size."""
    shrink = min(1.0, math.sqrt(max_pixels / (image.width * image.height)))
    target = (max(1, int(image.width * shrink)), max(1, int(image.height * shrink)))
    if shrink < 1:
        image.draft(image.mode, target)
    upright = ImageOps.exif_transpose(image) if orientation != 1 else image
    rgb = _to_rgb(upright)
    target = target[::-1] if orientation >= 5 else target
    return rgb.resize(target, Image.Resampling.LANCZOS, reducing_gap=2.0) if rgb.size != target else rgb


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):  # PIL would clip 16 bits to 8 instead of scaling them
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of kind {image.mode}, without a known range")
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if not image.has_transparency_data:
        return image.convert("RGB")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")


def _encode(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()
