"""The first reading that all COCO converters share: annotations grouped by image, still as JSON objects."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from datamodules.formats.coco import CocoImage, annotation_place, load_coco
from datamodules.formats.image_paths import candidate_image_paths
from datamodules.formats.records import RecordError
from datamodules.prepare.corpus import Corpus, Describe, ImageWork, check_file_names, check_keys
from datamodules.prepare.report import Report

Parsed = TypeVar("Parsed")


@dataclass(frozen=True)
class CocoRecords:
    """The annotations of one image, as they stand in the file, and what is needed to read them."""

    path: Path
    image: CocoImage
    categories: dict[str, str]
    entries: list[dict[str, Any]]

    def image_paths(self, work: ImageWork) -> list[str]:
        """Where the picture may lie: under the name that the file gives, also in the split's folder."""
        return candidate_image_paths(work.dataset_id, work.image_id, self.image.file_name)


def open_coco_corpus(kind: str, files: list[Path], describe: Describe) -> Corpus:
    """Reads COCO files; a file's stem (`instances_train2017`) is the `dataset_id` of its images.

    Raises FormatError for a file of another format and ShardError for two files of one name or two images of one key.
    """
    report = Report()
    images: list[ImageWork] = []
    check_file_names(files)
    for path in files:
        coco = load_coco(path)
        for bad in coco.bad_entries:
            report.skip("entries", bad.reason, bad.where)
        for bad in coco.bad_annotations:
            report.counts["records read"] += 1
            report.skip("records", bad.reason, bad.where)
        for image_id, image in coco.images.items():
            if image_id not in coco.annotations:
                report.counts["images read"] += 1
                report.skip("images", "without annotations", f"{path}: image {image.image_id}")
        for image_id, entries in coco.annotations.items():
            records = CocoRecords(path, coco.images[image_id], coco.categories, entries)
            images.append(ImageWork(path.stem, image_id, records))
    check_keys(images)
    return Corpus(kind, files, images, describe, report)


def parse_all(records: CocoRecords, parse: Callable[[dict[str, Any]], Parsed], report: Report) -> list[Parsed]:
    """The annotations of an image that can be used; the others are counted."""
    parsed = []
    for entry in records.entries:
        report.counts["records read"] += 1
        try:
            parsed.append(parse(entry))
        except RecordError as error:
            report.skip("records", str(error), annotation_place(records.path, entry))
    return parsed
