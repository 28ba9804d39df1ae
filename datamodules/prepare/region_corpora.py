"""Opening regions in COCO's form or as JSON lines, recognised by the file's ending."""

from collections.abc import Sequence
from pathlib import Path

from datamodules.formats.regions import RegionSplit, RegionSplits
from datamodules.formats.regions_coco import read_regions_coco
from datamodules.formats.regions_jsonl import read_regions_jsonl


def read_regions(files: Sequence[Path], split: str | None = None) -> list[RegionSplit]:
    """The splits that files hold, in order of first appearance.

    split: a name to put everything under, for files that do not name their split.
    Raises FormatError for what holds no regions.
    """
    splits = RegionSplits(split)
    for path in files:
        (read_regions_jsonl if path.suffix == ".jsonl" else read_regions_coco)(path, splits)
    return splits.all()
