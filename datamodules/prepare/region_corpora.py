"""Opening regions in COCO's form or as JSON lines, recognised by the file's ending."""

from collections.abc import Sequence
from pathlib import Path

from datamodules.formats.records import FormatError, check_pixels
from datamodules.formats.regions import RegionSplit, RegionSplits
from datamodules.formats.regions_coco import read_regions_coco
from datamodules.formats.regions_jsonl import read_regions_jsonl


def read_regions(files: Sequence[Path], split: str | None = None) -> list[RegionSplit]:
    """The splits that files hold, in order of first appearance.

    split: a name to put everything under, for files that do not name their split.
    Raises FormatError for what holds no regions, and for boxes that are not in pixels.
    """
    splits = RegionSplits(split)
    for path in files:
        if "region_descriptions" in path.name:
            raise FormatError(f"{path}: Visual Genome's own file, which `prepare visual-genome` reads")
        (read_regions_jsonl if path.suffix == ".jsonl" else read_regions_coco)(path, splits)
        regions = (region for split in splits.all() for image in split.images.values() for region in image.regions)
        check_pixels(path, (region.box for region in regions if region.file == path))
    return splits.all()
