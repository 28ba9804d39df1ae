"""Reader of people's own referring data: JSON lines, an expression in each.

    {"image": "kitchen/3.jpg", "expression": "the blue mug", "box": [12, 40, 80.5, 122]}

| key | what |
|---|---|
| image | path of the picture below the image folder |
| expression | the words |
| box, or boxes | x0 y0 x1 y1 in pixels of the upright picture; `boxes` is a list of such, [] where nothing is meant |
| mask, or masks | optional: COCO run lengths or polygons; `masks` goes with `boxes`, null for one without a mask |
| split | optional: `train`, `val`, ...; without it the file's name must say it: `mugs_train.jsonl` |
| id | optional: of the expression, else the line's number |
| kind | optional: a word that figures are also reported by |
| width, height | optional: of the picture, else looked up; needed for masks where the pictures are not at hand |
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datamodules.formats.coco import image_size
from datamodules.formats.records import (
    BadRecord,
    FormatError,
    RecordError,
    four_numbers,
    identifier,
    items,
    parse_json,
    text,
)
from datamodules.formats.referring import Expression, ReferredObject, ReferringSplits
from datamodules.formats.splits import Box

Json = dict[str, Any]


def read_referring_jsonl(path: Path, splits: ReferringSplits) -> None:
    """Adds the expressions of a file to their splits.

    Raises FormatError where no line can be used, and where neither a line nor the file's name says the split.
    """
    bad: list[BadRecord] = []
    files_split = None
    for number, line in numbered_lines(path):
        try:
            record = parse_json(line)
            dataset, part = splits.name_and_part(path, path.stem, optional_text(record, "split"))
            split = splits.get(dataset, part, path)
            files_split = files_split or split
            image_id = text(record, "image")
            split.count(image_id, 1, f"{path}:{number}")
            said = text(record, "expression")
            objects = _objects(record)
            image = split.image(dataset, image_id, image_id, optional_size(record))
            targets = tuple(dict.fromkeys(image.number_object(found) for found in objects))
            name = identifier(record, "id") if "id" in record else str(number)
            split.add(image, Expression(f"{path}:{number}", name, said, targets, optional_text(record, "kind") or ""))
        except RecordError as error:
            bad.append(BadRecord(f"{path}:{number}", str(error)))
    if files_split is None:
        raise FormatError(f"{bad[0].where}: {bad[0].reason}" if bad else f"{path}: empty")
    files_split.bad += bad


def numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file that are not blank, with their numbers, from 1."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, line


def _objects(record: Json) -> list[ReferredObject]:
    if "boxes" not in record:
        return [ReferredObject(corner_box(record, "box"), record.get("mask"))]
    boxes = items(record, "boxes")
    masks = items(record, "masks") if "masks" in record else [None] * len(boxes)
    if len(masks) != len(boxes):
        raise RecordError("'masks' is not as long as 'boxes'")
    return [ReferredObject(corner_box({"boxes": box}, "boxes"), mask) for box, mask in zip(boxes, masks, strict=True)]


def corner_box(record: Json, key: str) -> Box:
    """x0 y0 x1 y1; RecordError where they are out of order or without area."""
    x0, y0, x1, y1 = four_numbers(record, key)
    if x1 < x0 or y1 < y0:
        raise RecordError("x1 < x0 or y1 < y0: is the box x y width height?")
    if x1 == x0 or y1 == y0:
        raise RecordError("zero-area box")
    return x0, y0, x1, y1


def optional_size(record: Json) -> tuple[int, int] | None:
    """(width, height), None where the record gives neither."""
    return image_size(record) if "width" in record or "height" in record else None


def optional_text(record: Any, key: str) -> str | None:
    """A string, None where it is missing or null."""
    return text(record, key) if isinstance(record, dict) and record.get(key) is not None else None
