"""COCO captions -> shards: per image its captions. JSON part: `captions`: [str]."""

from pathlib import Path

from datamodules.formats.coco import parse_caption
from datamodules.prepare.coco_corpus import CocoRecords, open_coco_corpus, parse_all
from datamodules.prepare.corpus import Corpus, Description, ImageWork
from datamodules.prepare.report import Report


def open_corpus(files: list[Path]) -> Corpus:
    """First reading. Raises FormatError for a file of another format, ShardError for two images of one key."""
    return open_coco_corpus("coco-captions", files, describe)


def describe(work: ImageWork, report: Report) -> Description | None:
    """The captions of an image; None where none is usable."""
    records: CocoRecords = work.records
    captions = parse_all(records, parse_caption, report)
    if not captions:
        return None
    return Description({"captions": captions}, records.image_paths(work), len(captions))
