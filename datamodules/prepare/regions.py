"""Regions of any form -> shards of kind `regions`, one folder for each split; one sample for each image.

JSON part: `regions`: [{id, bbox: [x0, y0, x1, y1], phrase}], boxes in pixels of the original image and clipped to it;
`picture`: the photo's name across data sets. An image without a usable region is left out of training. To evaluate it
is kept: whatever is found in it is wrong.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.formats.records import FormatError, RecordError
from datamodules.formats.regions import Region, RegionImage, RegionSplit
from datamodules.formats.splits import Size
from datamodules.prepare.corpus import Corpus, Description, ImageWork, check_keys
from datamodules.prepare.referring import clipped
from datamodules.prepare.referring_images import image_paths, size_of_picture
from datamodules.prepare.report import Report

KIND = "regions"

CLIPPED = "boxes clipped to the image"
CLIPPED_AS_FOUND = f"{CLIPPED} as found, for want of the size that they were made for (--image-data, width, height)"

# Johnson et al., CVPR 2016: the lists of their release
PUBLISHED_IMAGES = {"vg_train": 77_398, "vg_val": 5_000, "vg_test": 5_000}


@dataclass(frozen=True)
class ImageFolders:
    """Folders of pictures.  root: that holds them all.  below: each one's path below it, "" for the root itself."""

    root: Path
    below: tuple[str, ...] = ("",)

    @classmethod
    def of(cls, folders: Sequence[Path]) -> "ImageFolders":
        """FormatError for a folder that is not there."""
        missing = [folder for folder in folders if not folder.is_dir()]
        if missing:
            raise FormatError(f"no image folder {missing[0]}")
        if len(folders) == 1:
            return cls(folders[0])
        paths = [folder.resolve() for folder in folders]
        root = Path(os.path.commonpath(paths))
        return cls(root, tuple("" if path == root else path.relative_to(root).as_posix() for path in paths))

    def paths(self, paths: list[str]) -> list[str]:
        """Where each path may lie below the root."""
        return [f"{folder}/{path}" if folder else path for path in paths for folder in self.below]


NO_PICTURES = ImageFolders(Path(os.devnull))


@dataclass(frozen=True)
class RegionRecords:
    """What a worker describes an image from.  folders: of the pictures, also to look up a size that is not given."""

    image: RegionImage
    folders: ImageFolders
    training: bool


def split_corpus(split: RegionSplit, folders: ImageFolders = NO_PICTURES, notes: Sequence[str] = ()) -> Corpus:
    """The images of a split for the shard writer, or without folders for whoever wants the truth alone.

    Raises FormatError where no region of the split can be used.
    """
    report = Report(notes=[*notes, *_check_published(split)])
    for bad in split.bad:
        report.counts["records read"] += 1
        report.skip("records", bad.reason, bad.where)
    if not any(image.regions for image in split.images.values()):
        files = ", ".join(map(str, split.files))
        raise FormatError(f"{files}: no usable region of {split.name}: {report.reasons()}")
    images = [
        ImageWork(split.name, image.image_id, RegionRecords(image, folders, split.is_training))
        for image in split.images.values()
    ]
    check_keys(images)
    settings = {"left_out": split.left_out, "text": split.text}
    return Corpus(KIND, split.files, images, describe, report, {name: said for name, said in settings.items() if said})


def _check_published(split: RegionSplit) -> list[str]:
    """A line saying that a split of a published name holds as many images as published, or what differs."""
    published, found = PUBLISHED_IMAGES.get(split.name), len(split.images)
    if published is None:
        return []
    if found == published:
        return [f"as published: {found:,} images"]
    return [f"{found:,} images, not the published {published:,}"]


def describe(work: ImageWork, report: Report) -> Description | None:
    """The regions of an image; None where it has none and is for training."""
    records: RegionRecords = work.records
    image, folders = records.image, records.folders
    paths = folders.paths(image_paths(work.dataset_id, image))
    size = image.size or size_of_picture(folders.root, paths)
    regions = []
    for region in image.regions:
        report.counts["records read"] += 1
        try:
            regions.append(_content(region, size))
            if regions[-1]["bbox"] != region.box:
                report.counts[CLIPPED if image.size else CLIPPED_AS_FOUND] += 1
        except RecordError as error:
            report.skip("records", str(error), region.where)
    if not regions:
        if records.training:
            return None
        report.counts["images without regions"] += 1
    return Description({"regions": regions, "picture": image.photo}, paths, len(regions), size=size)


def _content(region: Region, size: Size | None) -> dict[str, Any]:
    phrase = region.phrase.strip()
    if not phrase:
        raise RecordError("empty phrase")
    return {"id": region.region_id, "bbox": clipped(region.box, size), "phrase": phrase}
