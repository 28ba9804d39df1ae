"""Reader of people's own regions: JSON lines, a region in each, or an image with all of its regions.

    {"image": "kitchen/3.jpg", "box": [12, 40, 80.5, 122], "phrase": "a blue mug"}
    {"image": "kitchen/4.jpg", "regions": [{"box": [3, 5, 30, 42], "phrase": "a plate"}, ...]}

| key | what |
|---|---|
| image | path of the picture below the image folder |
| box, phrase | x0 y0 x1 y1 in pixels of the upright picture, and the words for what it shows |
| regions | instead of `box` and `phrase`: a list of {box, phrase, id}, [] where the image has none |
| id | optional: of the region, else the line's number, behind it `_` and the place in `regions` |
| split | optional: `train`, `val`, ...; without it the file's name must say it: `mugs_train.jsonl` |
| width, height | optional: of the picture, else looked up |
"""

from pathlib import Path
from typing import Any

from datamodules.formats.json_lines import corner_box, numbered_lines, optional_size, optional_text
from datamodules.formats.records import BadRecord, FormatError, RecordError, identifier, items, parse_json, text
from datamodules.formats.regions import Region, RegionSplits

Json = dict[str, Any]


def read_regions_jsonl(path: Path, splits: RegionSplits) -> None:
    """Adds the images of a file with their regions to their splits.

    Raises FormatError where no line can be used.
    """
    bad: list[BadRecord] = []
    files_split = None
    for number, line in numbered_lines(path):
        where = f"{path}:{number}"
        try:
            record = parse_json(line)
            image_id = text(record, "image")
            found = _regions(record, str(number))
            dataset, split = splits.of_line(path, optional_text(record, "split"))
            files_split = files_split or split
            image = split.image(dataset, image_id, image_id, optional_size(record))
        except RecordError as error:
            bad.append(BadRecord(where, str(error)))
            continue
        for spare_id, region in found:
            try:
                region_id = identifier(region, "id") if isinstance(region, dict) and "id" in region else spare_id
                box = corner_box(region, "box")
                split.add(image, Region(path, region_id, box, text(region, "phrase")))
            except RecordError as error:
                split.bad.append(BadRecord(where, str(error)))
    if files_split is None:
        raise FormatError(f"{bad[0].where}: {bad[0].reason}" if bad else f"{path}: empty")
    files_split.bad += bad


def _regions(record: Json, number: str) -> list[tuple[str, Any]]:
    """The regions as they stand in the record, with the ids of those that have none."""
    if "regions" not in record:
        return [(number, record)]
    return [(f"{number}_{place}", region) for place, region in enumerate(items(record, "regions"))]
