"""What every form of referring data says, in one form: a split, its images, their objects and expressions.

The readers of the forms (`refer`, `mdetr`, `uninext`, `referring_jsonl`) put what they find into `ReferringSplits`.
Boxes are x0 y0 x1 y1 in pixels, segmentations as they stand in the file; neither is fitted to the image here.
"""

from dataclasses import dataclass, field, replace
from typing import Any

from datamodules.formats.splits import AnnotatedImage, AnnotatedSplit, Box, Names, Size, Splits


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
class ReferringImage(AnnotatedImage):
    """objects: id -> object, in the order of the file."""

    objects: dict[str, ReferredObject] = field(default_factory=dict)
    expressions: list[Expression] = field(default_factory=list)

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


@dataclass
class ReferringSplit(AnnotatedSplit[ReferringImage]):
    """One split of one partition of a data set.

    refs, sentences, image_ids: what the annotations hold, also what cannot be used.
    bad: the expressions, one entry for each, that lack an image or an object.
    """

    refs: set[str] = field(default_factory=set)
    sentences: int = 0
    image_ids: set[str] = field(default_factory=set)
    _expression_names: Names = field(default_factory=Names)

    def image(self, dataset: str, image_id: str, file_name: str = "", size: Size | None = None) -> ReferringImage:
        """The image of this data set, a new one where there is none yet; RecordError for a path out of its folder."""
        return self.find_or_add(ReferringImage, dataset, image_id, file_name, size)

    def add(self, image: ReferringImage, expression: Expression) -> None:
        """Adds an expression; an id that occurs again gets a number behind it."""
        name = self._expression_names.claim(expression.expression_id)
        image.expressions.append(replace(expression, expression_id=name))

    def count(self, image_id: str, sentences: int, ref: str) -> None:
        """Counts sentences of a ref, which `ref` names, whether they can be used or not."""
        self.refs.add(ref)
        self.sentences += sentences
        self.image_ids.add(image_id)


class ReferringSplits(Splits[ReferringSplit]):
    """The splits that some files hold, see `Splits`."""

    def __init__(self, only_name: str | None = None) -> None:
        super().__init__(ReferringSplit, only_name)
