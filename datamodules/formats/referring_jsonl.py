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

from pathlib import Path
from typing import Any

from datamodules.formats.json_lines import corner_box, numbered_lines, optional_size, optional_text
from datamodules.formats.records import (
    BadRecord,
    FormatError,
    RecordError,
    check_pixels,
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

    Raises FormatError where no line can be used, and for boxes that are not in pixels.
    """
    bad: list[BadRecord] = []
    boxes: list[Box] = []
    files_split = None
    for number, line in numbered_lines(path):
        try:
            record = parse_json(line)
            image_id = text(record, "image")
            dataset, split = splits.of_line(path, optional_text(record, "split"))
            files_split = files_split or split
            split.count(image_id, 1, f"{path}:{number}")
            said = text(record, "expression")
            objects = _objects(record)
            boxes += [found.box for found in objects]
            image = split.image(dataset, image_id, image_id, optional_size(record))
            targets = tuple(dict.fromkeys(image.number_object(found) for found in objects))
            name = identifier(record, "id") if "id" in record else str(number)
            split.add(image, Expression(f"{path}:{number}", name, said, targets, optional_text(record, "kind") or ""))
        except RecordError as error:
            bad.append(BadRecord(f"{path}:{number}", str(error)))
    if files_split is None:
        raise FormatError(f"{bad[0].where}: {bad[0].reason}" if bad else f"{path}: empty")
    check_pixels(path, boxes)
    files_split.bad += bad


def _objects(record: Json) -> list[ReferredObject]:
    if "boxes" not in record:
        return [ReferredObject(corner_box(record, "box"), record.get("mask"))]
    boxes = items(record, "boxes")
    masks = items(record, "masks") if "masks" in record else [None] * len(boxes)
    if len(masks) != len(boxes):
        raise RecordError("'masks' is not as long as 'boxes'")
    return [ReferredObject(corner_box({"boxes": box}, "boxes"), mask) for box, mask in zip(boxes, masks, strict=True)]
