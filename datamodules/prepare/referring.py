"""Referring data of any form -> shards of kind `referring`, one folder for each split; one sample for each image.

JSON part: `objects`: [{id, bbox: [x0, y0, x1, y1], rle: {size, counts} or null}]; `expressions`: [{id, text,
targets, kind}], targets being indices into objects, [] where nothing in the image is meant; `picture`: the photo's
name across data sets. Boxes are in pixels of the original image and clipped to it, run lengths of its size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.formats.coco import image_size
from datamodules.formats.masks import Rle, compressed_rle
from datamodules.formats.records import BadRecord, RecordError
from datamodules.formats.referring import Expression, ReferredObject, ReferringImage, ReferringSplit
from datamodules.formats.splits import Box
from datamodules.prepare.corpus import Corpus, Description, ImageWork, check_keys
from datamodules.prepare.referring_images import image_paths, size_of_picture
from datamodules.prepare.report import Report

KIND = "referring"


@dataclass(frozen=True)
class ReferringRecords:
    """What a worker describes an image from.

    folder: of the images, to look up a size that the annotations do not give; None where there are no images.
    keep_duplicates: whether an expression that is written twice for one object stays twice.
    """

    image: ReferringImage
    folder: Path | None
    keep_duplicates: bool


def split_corpus(split: ReferringSplit, folder: Path | None = None, notes: Sequence[str] = ()) -> Corpus:
    """The images of a split for the shard writer, or without a folder for whoever wants the truth alone.

    The same words for the same object are kept once for training. To evaluate, everything counts that the published
    split holds, repetitions too.
    """
    report = Report(notes=list(notes))
    for bad in split.bad:
        report.counts["records read"] += 1
        report.skip("records", bad.reason, bad.where)
    keep_duplicates = not split.is_training
    images = [
        ImageWork(split.name, image.image_id, ReferringRecords(image, folder, keep_duplicates))
        for image in split.images.values()
    ]
    check_keys(images)
    settings = {"left_out": split.left_out} if split.left_out else {}
    return Corpus(KIND, split.files, images, describe, report, settings)


def describe(work: ImageWork, report: Report) -> Description | None:
    """The objects and expressions of an image; None where no expression is usable."""
    records: ReferringRecords = work.records
    image = records.image
    paths = image_paths(work.dataset_id, image)
    size = image.size or size_of_picture(records.folder, paths)
    objects = _Objects(image, size)
    expressions: list[dict[str, Any]] = []
    seen: set[tuple[str, tuple[str, ...]]] = set()
    for expression in image.expressions:
        report.counts["records read"] += 1
        try:
            content = _content(expression, objects)
            if not records.keep_duplicates and (content["text"], expression.targets) in seen:
                raise RecordError("the same expression again for the same object")
        except RecordError as error:
            report.skip("records", str(error), expression.where)
            continue
        seen.add((content["text"], expression.targets))
        expressions.append(content)
    for mask in objects.bad_masks:
        report.skip("masks", mask.reason, mask.where)
    if not expressions:
        return None
    content = {"objects": objects.contents, "expressions": expressions, "picture": image.photo}
    return Description(content, paths, len(expressions), size=size)


class _Objects:
    """The objects of an image that its expressions mean, each converted when it is first needed.

    size: (width, height); boxes are left unclipped where it is not known.
    """

    def __init__(self, image: ReferringImage, size: tuple[int, int] | None) -> None:
        self.contents: list[dict[str, Any]] = []
        self.bad_masks: list[BadRecord] = []
        self._image = image
        self._size = size
        self._indices: dict[str, int] = {}

    def boxes(self, object_ids: tuple[str, ...]) -> dict[str, Box]:
        """The clipped boxes by object; RecordError for the first that cannot be used."""
        found = {object_id: self._image.objects[object_id] for object_id in object_ids}
        if any(one.crowd for one in found.values()):
            raise RecordError("a crowd region")
        return {object_id: clipped(one.box, self._size) for object_id, one in found.items()}

    def index(self, object_id: str, box: Box, where: str) -> int:
        """The object's place in `contents`, where it is put if it is not there yet; where: that it was named."""
        if object_id not in self._indices:
            self._indices[object_id] = len(self.contents)
            rle = self._mask(self._image.objects[object_id], where)
            self.contents.append({"id": object_id, "bbox": box, "rle": rle})
        return self._indices[object_id]

    def _mask(self, found: ReferredObject, where: str) -> Rle | None:
        """The mask; None where there is none, or a bad one, whose reason is noted."""
        if found.segmentation is None:
            return None
        try:
            width, height = self._size or _size_of_mask(found.segmentation)
            return compressed_rle(found.segmentation, height, width)
        except RecordError as error:
            self.bad_masks.append(BadRecord(where, str(error)))
            return None


def _size_of_mask(segmentation: Any) -> tuple[int, int]:
    """(width, height) as run lengths say it; RecordError for polygons, which do not."""
    size = segmentation.get("size") if isinstance(segmentation, dict) else None
    if not isinstance(size, list) or len(size) != 2:
        raise RecordError("polygons of an image of unknown size")
    return image_size({"height": size[0], "width": size[1]})


def clipped(box: Box, size: tuple[int, int] | None) -> Box:
    """The part of a box inside the image; RecordError where there is none."""
    if size is None:
        return box
    x0, y0, x1, y1 = box
    inside = (max(x0, 0.0), max(y0, 0.0), min(x1, float(size[0])), min(y1, float(size[1])))
    if inside[2] <= inside[0] or inside[3] <= inside[1]:
        raise RecordError("a box outside the image")
    return inside


def _content(expression: Expression, objects: _Objects) -> dict[str, Any]:
    said = expression.text.strip()
    if not said:
        raise RecordError("empty expression")
    boxes = objects.boxes(expression.targets)
    return {
        "id": expression.expression_id,
        "text": said,
        "targets": [objects.index(object_id, box, expression.where) for object_id, box in boxes.items()],
        "kind": expression.kind,
    }
