"""Reader of regions in COCO's form, as GRiT (Wu et al., 2022) publishes Visual Genome: `train.json`, `test.json`.

One JSON object: images {id, file_name, width, height}; annotations {id, image_id, bbox (x y w h, pixels), caption}.
"""

import re
from pathlib import Path
from typing import Any

from datamodules.formats.coco import annotation_place, box_from_corner_and_size, load_coco
from datamodules.formats.records import BadRecord, RecordError, four_numbers, identifier, text
from datamodules.formats.regions import Region, RegionSplits
from datamodules.formats.splits import plain_name

_ONLY_A_PART = re.compile(r"(train|val|test)\w*")
_NOT_A_DATA_SET = "annotations"  # a folder of this name says nothing; the one that it is in does


def read_regions_coco(path: Path, splits: RegionSplits) -> None:
    """Adds the images of a file with their regions to its split.

    The file's name says the data set and the split, `vg_test.json`; of `test.json` the folder is the data set.
    Raises FormatError for a file of another form, and where its name says no split.
    """
    coco = load_coco(path)
    dataset, part = splits.name_and_part(path, _stem(path))
    split = splits.get(dataset, part, path)
    split.bad += [*coco.bad_entries, *coco.bad_annotations]
    for image_id, entry in coco.images.items():
        image = split.image(dataset, image_id, entry.file_name, (entry.width, entry.height))
        for annotation in coco.annotations.get(image_id, []):
            try:
                split.add(image, _region(path, annotation))
            except RecordError as error:
                split.bad.append(BadRecord(annotation_place(path, annotation), str(error)))


def _region(path: Path, annotation: dict[str, Any]) -> Region:
    box = box_from_corner_and_size(four_numbers(annotation, "bbox"))
    return Region(path, identifier(annotation, "id"), box, text(annotation, "caption"))


def _stem(path: Path) -> str:
    stem = Path(path.name.removesuffix(".gz")).stem
    if not _ONLY_A_PART.fullmatch(stem):
        return stem
    folder = path.resolve().parent
    return f"{plain_name((folder.parent if folder.name == _NOT_A_DATA_SET else folder).name)}_{stem}"
