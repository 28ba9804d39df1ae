"""Reader of COCO instances and COCO captions (Lin et al., ECCV 2014; the format of cocodataset.org).

Both files are one JSON object. `images` holds {id, file_name, width, height}; `annotations` of an instance file
{id, image_id, category_id, bbox (x y w h, pixels), segmentation, iscrowd} with the names in `categories`, and
`annotations` of a caption file {id, image_id, caption}. A segmentation is a list of polygons, or a run-length
encoding, plain (a list of counts) or compressed (a string). An instance may carry `attributes`, a list of strings.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datamodules.formats.image_paths import check_inside
from datamodules.formats.masks import Rle, compressed_rle
from datamodules.formats.records import (
    BadRecord,
    FormatError,
    RecordError,
    four_numbers,
    identifier,
    items,
    read_json_object,
    text,
    value,
    whole_number,
)

Box = tuple[float, float, float, float]

_LARGEST_SIDE = 65535  # of a JPEG file


@dataclass(frozen=True)
class CocoImage:
    """An entry of `images`: the file's name relative to the image folder, and its size in pixels."""

    image_id: str
    file_name: str
    width: int
    height: int


@dataclass(frozen=True)
class Instance:
    """One object, or a crowd of them.

    box: x0 y0 x1 y1 in pixels of the image, not clipped.  mask: compressed run-length encoding of the image's size.
    """

    instance_id: str
    category: str
    box: Box
    mask: Rle
    attributes: tuple[str, ...] = ()
    crowd: bool = False


@dataclass(frozen=True)
class CocoFile:
    """A file after its first reading: images, category names, and each image's annotations as they stand.

    annotations: image id -> the JSON objects, for `parse_instance` or `parse_caption`.
    bad_entries: entries of `images` and `categories` that could not be used.
    bad_annotations: annotations that belong to no image.
    """

    path: Path
    images: dict[str, CocoImage]
    categories: dict[str, str]
    annotations: dict[str, list[dict[str, Any]]]
    bad_entries: list[BadRecord] = field(default_factory=list)
    bad_annotations: list[BadRecord] = field(default_factory=list)


def load_coco(path: Path) -> CocoFile:
    """Reads an instance or caption file and sorts its annotations by image, in the order of the file.

    Raises FormatError where the file is no such file at all.
    """
    whole = read_json_object(path)
    for key in ("images", "annotations"):
        if not isinstance(whole.get(key), list):
            raise FormatError(f"{path}: no list {key!r}: not a COCO annotation file")
    coco = CocoFile(path, {}, {}, {})
    categories = whole.get("categories")
    for entry in whole["images"]:
        _collect(coco.bad_entries, f"{path}: image", entry, coco, _add_image)
    for entry in categories if isinstance(categories, list) else []:
        _collect(coco.bad_entries, f"{path}: category", entry, coco, _add_category)
    for entry in whole["annotations"]:
        _collect(coco.bad_annotations, f"{path}: annotation", entry, coco, _add_annotation)
    return coco


def read_instances(path: Path) -> Iterator[tuple[CocoImage, Instance] | BadRecord]:
    """Every instance of a file with its image; one that cannot be used comes as its place and the reason."""
    coco = load_coco(path)
    yield from [*coco.bad_entries, *coco.bad_annotations]
    for image_id, entries in coco.annotations.items():
        image = coco.images[image_id]
        for entry in entries:
            try:
                yield image, parse_instance(entry, image, coco.categories)
            except RecordError as error:
                yield BadRecord(annotation_place(path, entry), str(error))


def read_captions(path: Path) -> Iterator[tuple[CocoImage, str] | BadRecord]:
    """Every caption of a file with its image; one that cannot be used comes as its place and the reason."""
    coco = load_coco(path)
    yield from [*coco.bad_entries, *coco.bad_annotations]
    for image_id, entries in coco.annotations.items():
        for entry in entries:
            try:
                yield coco.images[image_id], parse_caption(entry)
            except RecordError as error:
                yield BadRecord(annotation_place(path, entry), str(error))


def parse_instance(entry: dict[str, Any], image: CocoImage, categories: dict[str, str]) -> Instance:
    """An entry of `annotations`; RecordError with the reason where it cannot be used."""
    category_id = identifier(entry, "category_id")
    if category_id not in categories:
        raise RecordError("its category is not in 'categories'")
    box = box_from_corner_and_size(four_numbers(entry, "bbox"))
    return Instance(
        instance_id=identifier(entry, "id"),
        category=categories[category_id],
        box=box,
        mask=compressed_rle(value(entry, "segmentation"), image.height, image.width),
        attributes=_attributes(entry),
        crowd=entry.get("iscrowd") in (1, True),
    )


def box_from_corner_and_size(numbers: Box) -> Box:
    """x y width height -> x0 y0 x1 y1; RecordError for a box without area."""
    x, y, width, height = numbers
    if width <= 0 or height <= 0:
        raise RecordError("zero-area box")
    return x, y, x + width, y + height


def parse_caption(entry: dict[str, Any]) -> str:
    """The caption without blanks at its ends; RecordError where it is empty or no string."""
    caption = text(entry, "caption").strip()
    if not caption:
        raise RecordError("empty caption")
    return caption


def image_size(record: Any) -> tuple[int, int]:
    """(width, height) of an entry that describes an image; RecordError for a size that no JPEG can have."""
    width, height = whole_number(record, "width"), whole_number(record, "height")
    if not (0 < width <= _LARGEST_SIDE and 0 < height <= _LARGEST_SIDE):
        raise RecordError("an impossible image size")
    return width, height


def annotation_place(path: Path, entry: Any) -> str:
    """How a `BadRecord` names an annotation."""
    return f"{path}: annotation {_id_of(entry)}"


def _id_of(entry: Any) -> Any:
    return entry.get("id", "without id") if isinstance(entry, dict) else "without id"


def _collect(bad: list[BadRecord], kind: str, entry: Any, coco: CocoFile, add: Callable[[CocoFile, Any], None]) -> None:
    """Adds the entry to the file, or its reason to `bad`."""
    try:
        add(coco, entry)
    except RecordError as error:
        bad.append(BadRecord(f"{kind} {_id_of(entry)}", str(error)))


def _add_image(coco: CocoFile, entry: Any) -> None:
    image_id = identifier(entry, "id")
    width, height = image_size(entry)
    if image_id in coco.images:
        raise RecordError("a second image with this id")
    file_name = check_inside(text(entry, "file_name"), "file_name")
    coco.images[image_id] = CocoImage(image_id, file_name, width, height)


def _add_category(coco: CocoFile, entry: Any) -> None:
    coco.categories[identifier(entry, "id")] = text(entry, "name")


def _add_annotation(coco: CocoFile, entry: Any) -> None:
    image_id = identifier(entry, "image_id")
    if image_id not in coco.images:
        raise RecordError("its image is not in 'images'")
    coco.annotations.setdefault(image_id, []).append(entry)


def _attributes(entry: dict[str, Any]) -> tuple[str, ...]:
    found = items(entry, "attributes") if "attributes" in entry else []
    if not all(isinstance(attribute, str) for attribute in found):
        raise RecordError("'attributes' is not a list of strings")
    return tuple(found)
