"""What every form of referring data says, in one form: a split, its images, their objects and expressions.

The readers of the forms (`refer`, `mdetr`, `uninext`, `referring_jsonl`) put what they find into `ReferringSplits`.
Boxes are x0 y0 x1 y1 in pixels, segmentations as they stand in the file; neither is fitted to the image here.
"""

import re
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from datamodules.formats.image_paths import check_inside
from datamodules.formats.records import BadRecord, FormatError

Box = tuple[float, float, float, float]

COCO, VISUAL_GENOME, FLICKR = "coco", "vg", "flickr"

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_]+")
_PART = re.compile(r"(?P<dataset>.+?)[_-](?P<part>(train|val|test).*)")
_COCO_NAME = re.compile(r"COCO_(?:train|val|test)\d{4}_0*(\d+)")
# How the names of data sets begin whose image ids are those of these collections of photos.
_COLLECTIONS = {
    COCO: ("refcoco", "grefcoco", "mixed_coco", "merge_coco", "coco", "mscoco", "captions_train", "captions_val"),
    VISUAL_GENOME: ("mixed_vg", "vg", "visual_genome"),
    FLICKR: ("flickr",),
}
_TWELVE_DIGITS = re.compile(r"(?:(?:train|val|test|unlabeled)20\d\d/)?(\d{12})\.[a-z]+")


@dataclass(frozen=True)
class ReferredObject:
    """box: x0 y0 x1 y1 in pixels.  segmentation: polygons or run lengths as COCO writes them, None without a mask."""

    box: Box
    segmentation: Any = None
    crowd: bool = False


@dataclass(frozen=True)
class Expression:
    """where: its place, for a report.  targets: ids of the objects that it means, all of them; () for nothing."""

    where: str
    expression_id: str
    text: str
    targets: tuple[str, ...]
    kind: str = ""


@dataclass
class ReferringImage:
    """file_name: as the annotations give it, "" where they do not.  size: width and height, None where not given.

    picture: the photo's name in the collection that it comes from, the same in all data sets: `coco/581857`.
    coco_picture: its name in COCO, where it comes from another collection that took it from there.
    objects: id -> object, in the order of the file.
    """

    image_id: str
    file_name: str
    size: tuple[int, int] | None
    picture: str
    objects: dict[str, ReferredObject] = field(default_factory=dict)
    expressions: list[Expression] = field(default_factory=list)
    coco_picture: str | None = None

    def add_object(self, object_id: str, found: ReferredObject) -> str:
        """Adds an object and returns its id, with a number behind it where an object with another box has it."""
        name, number = object_id, 1
        while self.objects.setdefault(name, found).box != found.box:
            number += 1
            name = f"{object_id}-{number}"
        return name

    def number_object(self, found: ReferredObject) -> str:
        """Adds an object that has no id, if the image does not have the same already; returns its number."""
        known = next((object_id for object_id, other in self.objects.items() if other == found), None)
        return known if known is not None else self.add_object(str(len(self.objects)), found)


class Names:
    """Names that are given out once."""

    def __init__(self) -> None:
        self._uses: Counter[str] = Counter()

    def claim(self, name: str) -> str:
        """The name, or where it is taken, with the number of its use behind it."""
        self._uses[name] += 1
        return name if self._uses[name] == 1 else self.claim(f"{name}-{self._uses[name]}")


@dataclass
class ReferringSplit:
    """One split of one partition of a data set.

    name: with both, `refcoco_unc_val`.  part: `val`.  images: by the names of their pictures.
    refs, sentences, image_ids: what the annotations hold, also what cannot be used.
    bad: the expressions, one entry for each, that lack an image or an object.
    left_out: names the images that were taken out again, "" for none.
    """

    name: str
    part: str
    files: list[Path] = field(default_factory=list)
    images: dict[str, ReferringImage] = field(default_factory=dict)
    refs: set[str] = field(default_factory=set)
    sentences: int = 0
    image_ids: set[str] = field(default_factory=set)
    bad: list[BadRecord] = field(default_factory=list)
    left_out: str = ""
    _image_names: Names = field(default_factory=Names)
    _expression_names: Names = field(default_factory=Names)

    def image(
        self, dataset: str, image_id: str, file_name: str = "", size: tuple[int, int] | None = None
    ) -> ReferringImage:
        """The image of this data set, a new one where there is none yet; RecordError for a path out of its folder."""
        check_inside(image_id, "image_id")
        check_inside(file_name, "file_name")
        picture = picture_name(dataset, image_id, file_name)
        if picture not in self.images:
            name = self._image_names.claim(image_id)
            self.images[picture] = ReferringImage(name, file_name, size, picture)
        found = self.images[picture]
        found.size = found.size or size
        return found

    def add(self, image: ReferringImage, expression: Expression) -> None:
        """Adds an expression; an id that occurs again gets a number behind it."""
        name = self._expression_names.claim(expression.expression_id)
        image.expressions.append(replace(expression, expression_id=name))

    def count(self, image_id: str, sentences: int, ref: str) -> None:
        """Counts sentences of a ref, which `ref` names, whether they can be used or not."""
        self.refs.add(ref)
        self.sentences += sentences
        self.image_ids.add(image_id)


class ReferringSplits:
    """The splits that some files hold, in order of first appearance.

    only_name: puts everything into one split of this name.
    """

    def __init__(self, only_name: str | None = None) -> None:
        self._only_name = only_name
        self._splits: dict[str, ReferringSplit] = {}

    def get(self, dataset: str, part: str, *files: Path) -> ReferringSplit:
        """The split `part` of a data set, which these files belong to."""
        name = self._only_name or plain_name(f"{dataset}_{part}")
        split = self._splits.setdefault(name, ReferringSplit(name, part_of(name) if self._only_name else part))
        split.files += [file for file in files if file not in split.files]
        return split

    def name_and_part(self, path: Path, stem: str, part: str | None = None) -> tuple[str, str]:
        """Data set and part of a file: `mugs_val` is the part `val` of `mugs`, unless the file says another part.

        Raises FormatError where neither the file nor its name says the part, but one is needed.
        """
        found = _PART.fullmatch(stem)
        dataset = found["dataset"] if found else stem
        part = part or (found["part"] if found else None)
        if part is None and self._only_name is None:
            raise FormatError(f"{path}: neither its records nor its name say the split: --split names one")
        return dataset, part or ""

    def all(self) -> list[ReferringSplit]:
        return list(self._splits.values())


def plain_name(name: str) -> str:
    """A name of letters, digits and underscores: `refcoco+` is `refcocoplus`, as it is usually written."""
    return _NOT_IN_NAMES.sub("_", name.replace("+", "plus")).strip("_")


def part_of(name: str) -> str:
    """The last word of a split's name: `val` of `refcoco_unc_val`."""
    return name.rsplit("_", 1)[-1]


def picture_name(dataset: str, image_id: str, file_name: str) -> str:
    """`coco/581857` for a photo of COCO, whatever the data set calls it; else the collection's name and the image's."""
    found = _COCO_NAME.match(file_name.rsplit("/", 1)[-1]) or _TWELVE_DIGITS.fullmatch(file_name)
    if found:
        return f"{COCO}/{int(found[1])}"
    for collection, beginnings in _COLLECTIONS.items():
        if dataset.startswith(beginnings):
            return f"{collection}/{image_id.lstrip('0')}"
    return f"{dataset.split('_')[0]}/{file_name or image_id}"
