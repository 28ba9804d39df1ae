"""Small data sets of regions in the forms that they are published in."""

import json
from pathlib import Path
from typing import Any

Json = dict[str, Any]
BOX = (5, 6, 20, 10)  # x y width height


def region(number: int, phrase: str, box: tuple[float, ...] = BOX, **changes: Any) -> Json:
    """A region of Visual Genome, of image 1."""
    place = dict(zip(("x", "y", "width", "height"), box, strict=True))
    return {"region_id": number, "image_id": 1, "phrase": phrase, **place, **changes}


def described(image: int, *regions: Any) -> Json:
    """An entry of Visual Genome's region descriptions."""
    return {"id": image, "regions": list(regions)}


def image_data(image: int, width: int = 40, height: int = 30, folder: str = "VG_100K", **changes: Any) -> Json:
    """An entry of Visual Genome's image data."""
    url = f"https://cs.stanford.edu/people/rak248/{folder}/{image}.jpg"
    size = {"width": width, "height": height}
    return {"image_id": image, "url": url, **size, "coco_id": None, "flickr_id": None, **changes}


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path
