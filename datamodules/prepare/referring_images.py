"""Where the picture of an annotated image may lie, under the names of every publication of its data set."""

import re
from pathlib import Path

from PIL import Image

from datamodules.formats.image_paths import candidate_image_paths
from datamodules.formats.splits import COCO, FLICKR, VISUAL_GENOME, AnnotatedImage
from datamodules.pictures import orientation

_OBJECT_NUMBER = re.compile(r"(COCO_[a-z]+\d{4}_\d{12})_\d+")  # `COCO_train2014_000000581857_16.jpg` of a ref
_ENDINGS = (".jpg", ".png", "")
_FOLDERS = {
    COCO: ("", "train2014", "train2017", "val2014", "val2017"),
    VISUAL_GENOME: ("", "VG_100K", "VG_100K_2"),
    FLICKR: ("", "flickr30k-images", "flickr30k_images"),
}


def image_paths(dataset_id: str, image: AnnotatedImage) -> list[str]:
    """Paths relative to the image folder, the likeliest first; the folder may be a data set's own or hold several."""
    given = _OBJECT_NUMBER.sub(r"\1", image.file_name)
    collection, _, number = image.picture.partition("/")
    if collection == COCO:
        names = [given, f"COCO_train2014_{number.zfill(12)}.jpg", f"{number.zfill(12)}.jpg"]
    else:
        names = [given, *(f"{number}{ending}" for ending in _ENDINGS)]
    folders = _FOLDERS.get(collection, ("",))
    paths = [f"{folder}/{name}" if folder else name for name in names if name for folder in folders]
    return [*dict.fromkeys([*paths, *candidate_image_paths(dataset_id, image.image_id, given or None)])]


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
