"""Reader of the `instances.json` of SeqTR (Zhu et al., ECCV 2022) and UNINEXT (Yan et al., CVPR 2023).

One JSON object: split -> list of objects {image_id, width, height, bbox (x y w h, pixels), expressions: [str],
data_source, mask}. The folder names the data set and its partition: `refcoco-unc`, `refcocog-umd`, `flickr30k`, and
`mixed`, whose photos are of COCO or of Visual Genome as `data_source` says. A mask is polygons or run lengths.
"""

from pathlib import Path
from typing import Any

from datamodules.formats.coco import box_from_corner_and_size, image_size
from datamodules.formats.records import BadRecord, RecordError, four_numbers, identifier, items, text
from datamodules.formats.referring import Expression, ReferredObject, ReferringSplit, ReferringSplits
from datamodules.formats.splits import FLICKR, plain_name

Json = dict[str, Any]

_NAMES = {"flickr30k": FLICKR}


def is_uninext(whole: Any) -> bool:
    """Whether the content of a file is of this form."""
    if not isinstance(whole, dict) or not all(isinstance(entries, list) for entries in whole.values()):
        return False
    return any(isinstance(entry, dict) and "expressions" in entry for entries in whole.values() for entry in entries)


def read_uninext(path: Path, whole: Json, splits: ReferringSplits) -> None:
    """Adds the expressions of a file, already parsed, to their splits."""
    folder = path.resolve().parent.name
    name = _NAMES.get(folder, plain_name(folder))
    for part, entries in whole.items():
        numbers: dict[str, int] = {}  # expressions of each split of this part so far: they have no ids of their own
        for place, entry in enumerate(entries):
            source = entry.get("data_source") if isinstance(entry, dict) else None
            dataset = f"{name}_{source}" if isinstance(source, str) and source != name else name
            split = splits.get(dataset, part, path)
            where = f"{path}: {part} {place}"
            said = entry.get("expressions") if isinstance(entry, dict) else None
            count = len(said) if isinstance(said, list) else 0
            start = numbers.get(split.name, 0)
            numbers[split.name] = start + count
            try:
                _add_object(split, dataset, where, entry, start)
            except RecordError as error:
                split.bad += [BadRecord(where, str(error))] * max(1, count)


def _add_object(split: ReferringSplit, dataset: str, where: str, entry: Any, start: int) -> None:
    """Adds an object and what is said of it; its first expression has the number `start`."""
    image_id, said = identifier(entry, "image_id"), items(entry, "expressions")
    split.count(image_id, len(said), where)
    box = box_from_corner_and_size(four_numbers(entry, "bbox"))
    image = split.image(dataset, image_id, "", image_size(entry))
    target = image.number_object(ReferredObject(box, entry.get("mask") or None))
    for number, _ in enumerate(said):
        try:
            expression = text({"expression": said[number]}, "expression")
            split.add(image, Expression(where, str(start + number), expression, (target,)))
        except RecordError as error:
            split.bad.append(BadRecord(where, str(error)))
