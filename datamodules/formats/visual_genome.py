"""Reader of Visual Genome (Krishna et al., IJCV 2017): region descriptions, image data, and lists of splits.

`region_descriptions.json` is a list of {id, regions: [{region_id, image_id, x, y, width, height, phrase}]}, in pixels;
in version 1.0 the regions' ids are under `id`. `image_data.json` is a list of {image_id, url, width, height, coco_id}.
`densecap_splits.json` of DenseCap (Johnson et al., CVPR 2016) is {"train": [image ids], "val": [...], "test": [...]}.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from datamodules.formats.coco import box_from_corner_and_size, image_size
from datamodules.formats.image_paths import check_inside
from datamodules.formats.records import (
    BadRecord,
    FormatError,
    RecordError,
    finite,
    identifier,
    items,
    read_json_list,
    read_json_object,
    text,
    value,
)
from datamodules.formats.regions import Region, RegionSplits
from datamodules.formats.splits import COCO, VISUAL_GENOME, Size

_NAME = re.compile(r"(?:(?P<dataset>.+?)_)?region_descriptions")
_FOLDER_AND_NAME = 2  # parts at the end of an image's address: VG_100K_2/1.jpg


@dataclass(frozen=True)
class ImageData:
    """file_name: the last folder and the name in its address.  coco_picture: the photo's name in COCO, if any."""

    file_name: str
    size: Size | None
    coco_picture: str | None


UNKNOWN = ImageData("", None, None)


def read_image_data(paths: Iterable[Path]) -> dict[str, ImageData]:
    """image id -> what files of image data say of it.

    Raises FormatError naming the first entry that cannot be used, or that says something else than another one.
    """
    found: dict[str, ImageData] = {}
    for path in paths:
        for number, entry in enumerate(read_json_list(path)):
            try:
                image_id, data = _either_id(entry, "image_id"), _image_data(entry)
                if found.setdefault(image_id, data) != data:
                    raise RecordError("another image with this id")
            except RecordError as error:
                raise FormatError(f"{path}: entry {number}: {error}: not Visual Genome's image data") from None
    return found


def _image_data(entry: Any) -> ImageData:
    url = text(entry, "url")
    try:
        parts = PurePosixPath(urlsplit(url).path).parts[-_FOLDER_AND_NAME:]
    except ValueError:
        raise RecordError("'url' is not an address") from None
    coco_id = identifier(entry, "coco_id") if entry.get("coco_id") is not None else None
    return ImageData(check_inside("/".join(parts), "url"), image_size(entry), coco_id and f"{COCO}/{coco_id}")


def read_splits(path: Path) -> dict[str, str]:
    """image id -> `train`, `val` or `test`; FormatError where the file is no such list or names an image twice."""
    parts: dict[str, str] = {}
    whole = read_json_object(path)
    for part in whole:
        try:
            for number in items(whole, part):
                image_id = identifier({"image id": number}, "image id")
                if parts.setdefault(image_id, part) != part:
                    raise RecordError(f"image {image_id} is in two splits")
        except RecordError as error:
            raise FormatError(f"{path}: {part}: {error}") from None
    return parts


def read_region_descriptions(
    path: Path, splits: RegionSplits, image_data: dict[str, ImageData], parts: dict[str, str] | None = None
) -> int:
    """Adds the images of a file with their regions to their splits; returns how many images belong to none.

    image_data: as `read_image_data` gives it, {} where it is not at hand.
    parts: as `read_splits` gives it; without it the file's name says the split of all its images, such as
        `toy_val_region_descriptions.json`, and those of `region_descriptions.json` are for training.
    Raises FormatError for a file of another form, and for one whose split is needed and not known.
    """
    match = _NAME.match(path.name)
    stem = (match and match["dataset"]) or f"{VISUAL_GENOME}_train"
    bad: list[BadRecord] = []
    files_split, left_out = None, 0
    for number, entry in enumerate(read_json_list(path)):
        try:
            image_id, found = identifier(entry, "id"), items(entry, "regions")
            if parts is not None and image_id not in parts:
                left_out += 1
                continue
            dataset, part = splits.name_and_part(path, stem, parts[image_id] if parts else None)
            split = splits.get(dataset, part, path)
            files_split = files_split or split
            known = image_data.get(image_id, UNKNOWN)
            image = split.image(dataset, image_id, known.file_name, known.size)
            image.coco_picture = known.coco_picture
        except RecordError as error:
            bad.append(BadRecord(f"{path}: entry {number}", str(error)))
            continue
        for place, region in enumerate(found):
            try:
                split.add(image, _region(path, region))
            except RecordError as error:
                split.bad.append(BadRecord(_place(path, image_id, place, region), str(error)))
    if files_split is None:
        raise FormatError(_nothing_usable(path, bad, left_out))
    files_split.bad += bad
    return left_out


def _region(path: Path, entry: Any) -> Region:
    x, y, width, height = (finite(value(entry, key), key) for key in ("x", "y", "width", "height"))
    box = box_from_corner_and_size((x, y, width, height))
    return Region(path, _either_id(entry, "region_id"), box, text(entry, "phrase"))


def _place(path: Path, image_id: str, number: int, entry: Any) -> str:
    found = entry.get("region_id", entry.get("id")) if isinstance(entry, dict) else None
    return f"{path}: region {found}" if found is not None else f"{path}: image {image_id}: region number {number}"


def _nothing_usable(path: Path, bad: list[BadRecord], left_out: int) -> str:
    if bad:
        return f"{bad[0].where}: {bad[0].reason}: not Visual Genome's region descriptions"
    return f"{path}: none of its {left_out:,} images is in a split" if left_out else f"{path}: empty"


def _either_id(entry: Any, key: str) -> str:
    """The id under its name, or under `id` as version 1.0 has it."""
    return identifier(entry, key if isinstance(entry, dict) and key in entry else "id")
