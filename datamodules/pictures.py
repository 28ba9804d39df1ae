"""A picture of any kind of file, upright and in RGB, as every part of the project sees it."""

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

_ORIENTATION = 0x0112


def orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 where it is absent or means nothing. Reads all of a picture that is no JPEG."""
    if image.format not in ("JPEG", "MPO"):
        image.load()  # PNG has EXIF behind its pixels: looking for it would meet a fault in them and hide it
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a broken EXIF block does not make a broken picture
        return 1
    return found if found in range(1, 9) else 1


def upright(image: Image.Image) -> Image.Image:
    """The picture turned as its EXIF block says.

    Raises whatever PIL does for a broken file, which is nearly anything; see `reason`.
    """
    return ImageOps.exif_transpose(image) if orientation(image) != 1 else image


def upright_rgb(image: Image.Image) -> Image.Image:
    """The same in 8-bit RGB; transparency is laid on white."""
    return _to_rgb(upright(image))


def reason(error: Exception) -> str:
    """What is wrong with a file that PIL refused, in one line."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image of a known kind"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


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
