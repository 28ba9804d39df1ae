"""COCO instances -> shards: per image its objects, to learn to segment what a prompt names.

JSON part: `instances`: [{id, category, attributes: [str], bbox: [x0, y0, x1, y1], rle: {size, counts}, iscrowd}];
boxes in pixels and compressed run lengths of the original image, also where the stored picture was shrunk.
"""

from functools import partial
from pathlib import Path
from typing import Any

from datamodules.formats.coco import Instance, parse_instance
from datamodules.prepare.coco_corpus import CocoRecords, open_coco_corpus, parse_all
from datamodules.prepare.corpus import Corpus, Description, ImageWork
from datamodules.prepare.report import Report


def open_corpus(files: list[Path]) -> Corpus:
    """First reading. Raises FormatError for a file of another format, ShardError for two images of one key."""
    return open_coco_corpus("coco-instances", files, describe)


def describe(work: ImageWork, report: Report) -> Description | None:
    """The objects of an image; None where none is usable."""
    records: CocoRecords = work.records
    parse = partial(parse_instance, image=records.image, categories=records.categories)
    instances = [_content(instance) for instance in parse_all(records, parse, report)]
    if not instances:
        return None
    size = (records.image.width, records.image.height)
    return Description({"instances": instances}, records.image_paths(work), len(instances), size=size)


def _content(instance: Instance) -> dict[str, Any]:
    return {
        "id": instance.instance_id,
        "category": instance.category,
        "attributes": instance.attributes,
        "bbox": instance.box,
        "rle": instance.mask,
        "iscrowd": instance.crowd,
    }
