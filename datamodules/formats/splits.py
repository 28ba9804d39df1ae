"""Splits of data sets whose annotations are of images: what referring data and regions have in common.

Readers put what they find into `Splits`, image by image. A photo has one name across all data sets, so that a
training set that holds photos of a test set is noticed.
"""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from datamodules.formats.image_paths import check_inside
from datamodules.formats.records import BadRecord, FormatError, RecordError

Box = tuple[float, float, float, float]
Size = tuple[int, int]

COCO, VISUAL_GENOME, FLICKR = "coco", "vg", "flickr"

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_]+")
_NAMING = "name the file as mugs_val.jsonl is named, or use `prepare --split NAME`"
_PART = re.compile(r"(?P<dataset>.+?)[_-](?P<part>(train|val|test).*)")
_COCO_NAME = re.compile(r"COCO_(?:train|val|test)\d{4}_0*(\d+)")
# How the names of data sets begin whose image ids are those of these collections of photos.
_COLLECTIONS = {
    COCO: ("refcoco", "grefcoco", "mixed_coco", "merge_coco", "coco", "mscoco", "captions_train", "captions_val"),
    VISUAL_GENOME: ("mixed_vg", "vg", "visual_genome"),
    FLICKR: ("flickr",),
}
_TWELVE_DIGITS = re.compile(r"(?:(?:train|val|test|unlabeled)20\d\d/)?(\d{12})\.[a-z]+")


@dataclass
class AnnotatedImage:
    """file_name: as the annotations give it, "" where they do not.  size: width and height, None where not given.

    picture: the photo's name in the collection that it comes from, the same in all data sets: `coco/581857`.
    coco_picture: its name in COCO, where it comes from another collection that took it from there.
    """

    image_id: str
    file_name: str
    size: Size | None
    picture: str
    coco_picture: str | None = field(default=None, kw_only=True)

    @property
    def photo(self) -> str:
        """The name that tells whether two images are the same."""
        return self.coco_picture or self.picture


class Names:
    """Names that are given out once."""

    def __init__(self) -> None:
        self._uses: Counter[str] = Counter()

    def claim(self, name: str) -> str:
        """The name, or where it is taken, with the number of its use behind it."""
        self._uses[name] += 1
        return name if self._uses[name] == 1 else self.claim(f"{name}-{self._uses[name]}")


Image = TypeVar("Image", bound=AnnotatedImage)


@dataclass
class AnnotatedSplit(Generic[Image]):
    """One split of a data set.

    name: with the data set's, `refcoco_unc_val`.  part: `val`.  images: by the names of their pictures.
    bad: the records, one entry for each, that cannot be used as they stand.
    left_out: names the images that were taken out again, "" for none.
    """

    name: str
    part: str
    files: list[Path] = field(default_factory=list)
    images: dict[str, Image] = field(default_factory=dict)
    bad: list[BadRecord] = field(default_factory=list)
    left_out: str = ""
    _image_names: Names = field(default_factory=Names)

    @property
    def is_training(self) -> bool:
        return is_training(self.part)

    def find_or_add(
        self,
        make: Callable[[str, str, Size | None, str], Image],
        dataset: str,
        image_id: str,
        file_name: str,
        size: Size | None,
    ) -> Image:
        """The image of this data set, a new one where there is none yet; RecordError for a path out of its folder.

        make: makes it from its id in this split, file name, size and picture.
        """
        check_inside(image_id, "image_id")
        check_inside(file_name, "file_name")
        picture = picture_name(dataset, image_id, file_name)
        if picture not in self.images:
            self.images[picture] = make(self._image_names.claim(image_id), file_name, size, picture)
        found = self.images[picture]
        found.size = found.size or size
        return found


Split = TypeVar("Split", bound=AnnotatedSplit)


class Splits(Generic[Split]):
    """The splits that some files hold, in order of first appearance.

    make: makes a split of a name and a part.
    only_name: puts everything into one split of this name.
    """

    def __init__(self, make: Callable[[str, str], Split], only_name: str | None = None) -> None:
        self._make = make
        self._only_name = only_name
        self._splits: dict[str, Split] = {}

    def get(self, dataset: str, part: str, *files: Path) -> Split:
        """The split `part` of a data set, which these files belong to."""
        name = self._only_name or plain_name(f"{dataset}_{part}")
        if name not in self._splits:
            self._splits[name] = self._make(name, part_of(name) if self._only_name else part)
        split = self._splits[name]
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
            raise FormatError(f"{path}: neither its records nor its name say the split: {_NAMING}")
        return dataset, part or ""

    def of_line(self, path: Path, part: str | None) -> tuple[str, Split]:
        """Data set and split of a line of a file; part: as the line says it.

        Raises RecordError where neither the line nor the file's name says the part, but one is needed.
        """
        try:
            dataset, part = self.name_and_part(path, path.stem, part)
        except FormatError:
            raise RecordError(f"neither the line nor the file's name says the split: {_NAMING}") from None
        return dataset, self.get(dataset, part, path)

    def all(self) -> list[Split]:
        return list(self._splits.values())


def plain_name(name: str) -> str:
    """A name of letters, digits and underscores: `refcoco+` is `refcocoplus`, as it is usually written."""
    return _NOT_IN_NAMES.sub("_", name.replace("+", "plus")).strip("_")


def part_of(name: str) -> str:
    """The last word of a split's name: `val` of `refcoco_unc_val`."""
    return name.rsplit("_", 1)[-1]


def is_training(part: str) -> bool:
    """Whether a part of a data set is to be trained on."""
    return part.startswith("train")


def picture_name(dataset: str, image_id: str, file_name: str) -> str:
    """`coco/581857` for a photo of COCO, whatever the data set calls it; else the collection's name and the image's."""
    found = _COCO_NAME.match(file_name.rsplit("/", 1)[-1]) or _TWELVE_DIGITS.fullmatch(file_name)
    if found:
        return f"{COCO}/{int(found[1])}"
    for collection, beginnings in _COLLECTIONS.items():
        if dataset.startswith(beginnings):
            return f"{collection}/{image_id.lstrip('0')}"
    return f"{dataset.split('_')[0]}/{file_name or image_id}"
