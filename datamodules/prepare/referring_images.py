"""Where the picture of a referring expression may lie, under the names of every publication of its data set."""

import re
from pathlib import Path

from PIL import Image

from datamodules.formats.image_paths import candidate_image_paths
from datamodules.formats.records import RecordError
from datamodules.formats.referring import ReferringImage
from datamodules.pictures import orientation

_OBJECT_NUMBER = re.compile(r"(COCO_[a-z]+\d{4}_\d{12})_\d+")  # `COCO_train2014_000000581857_16.jpg` of a ref
_COCO_FOLDERS = ("", "train2014", "train2017", "val2014", "val2017")
_FOLDERS = ("", "VG_100K", "VG_100K_2", "flickr30k-images", "flickr30k_images")


def image_paths(dataset_id: str, image: ReferringImage) -> list[str]:
    """Paths relative to the image folder, the likeliest first; the folder may be a data set's own or hold several."""
    given = _OBJECT_NUMBER.sub(r"\1", image.file_name)
    try:
        paths = candidate_image_paths(dataset_id, image.image_id, given or None)
    except RecordError:  # an id that is no file name; the file name itself was checked when it was read
        paths = [given]
    coco = image.picture.removeprefix("coco/")
    if coco != image.picture:
        names = [given, f"COCO_train2014_{coco.zfill(12)}.jpg", f"{coco.zfill(12)}.jpg"]
        paths = [given, *(_inside(folder, name) for name in names for folder in _COCO_FOLDERS), *paths]
    elif given:
        paths += [_inside(folder, given) for folder in _FOLDERS]
    return [path for path in dict.fromkeys(paths) if path]


def size_of_picture(folder: Path | None, paths: list[str]) -> tuple[int, int] | None:
    """(width, height) of the upright picture; None where there is no such picture."""
    found = next((folder / path for path in paths if (folder / path).is_file()), None) if folder else None
    if found is None:
        return None
    try:
        with Image.open(found) as image:
            width, height = image.size
            return (height, width) if orientation(image) >= 5 else (width, height)
    except Exception:  # a broken picture is named when it is read whole
        return None


def _inside(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder and name else name
