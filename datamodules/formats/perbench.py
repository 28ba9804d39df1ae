"""Reader of PerBench (Zhang et al., "Pixel-SAIL", 2025): questions about regions of images, in three tasks.

A folder holds one JSON list for each task, with COCO run lengths of the image's size as masks:

| task | file | entry |
|---|---|---|
| description | STBench_Detailed_Caption.json | {image_name, object_annotations: [{segmentation, caption}]} |
| choice | STBench_MCQ.json | {image_name, mcqs: [{object, question, answer}]}, the options inside the question |
| segmentation | STBench_VRES.json | {image_name, question, answer, segmentations: {tag: mask}} |

A tag in the question of a segmentation is a region that is given, one in its answer alone a mask that is asked for.
The form is that of the code that reads the files; the files themselves were not published when this was written.
A benchmark is read whole or not at all: what cannot be used is an error and not left out.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datamodules.formats.image_paths import check_inside
from datamodules.formats.masks import Rle, any_rle, compressed_rle
from datamodules.formats.records import FormatError, RecordError, items, read_json_list, text, value
from pixel_llm.multiple_choice import chosen, options_of

DESCRIPTION, CHOICE, SEGMENTATION = TASKS = ("description", "choice", "segmentation")
FILES = {
    DESCRIPTION: "STBench_Detailed_Caption.json",
    CHOICE: "STBench_MCQ.json",
    SEGMENTATION: "STBench_VRES.json",
}

GIVEN = "<Prompt0>"  # how a choice can name its region

Size = tuple[int, int]

_NAME = re.compile(r"<\w+>")
_PROMPT = re.compile(r"<Prompt\d+>")


@dataclass(frozen=True)
class Region:
    """tag: that texts name it by, "" where nothing does."""

    tag: str
    mask: Rle


@dataclass(frozen=True)
class Item:
    """One question.  image: path of the picture below the image folder.  size: (height, width) of its masks.

    question: as it stands there; "" of a description.  answer: the caption, the right option, or a text with tags.
    regions: all that have a mask; those of inputs (indices) are given, those of targets are to be segmented.
    options: of a choice, none where the question does not mark them.
    where: the file and the place in it.  number: of the question in its file, from 0.
    """

    task: str
    image: str
    size: Size
    question: str
    answer: str
    regions: tuple[Region, ...]
    inputs: tuple[int, ...] = (0,)
    targets: tuple[int, ...] = ()
    options: tuple[str, ...] = ()
    where: str = ""
    number: int = 0


def read_perbench(folder: Path) -> list[Item]:
    """All questions, task by task in the order of the files.

    Raises FormatError, naming file and entry, for a missing file and for whatever is not of the form: masks of two
    sizes for one image, an empty mask of a given region, an answer that is none of the options, a tag that neither
    the question nor the answer names, an answer without a tag of its own, a text that names a region without a mask.
    """
    for name in FILES.values():
        if not (folder / name).is_file():
            raise FormatError(f"{folder}: PerBench is three files, {', '.join(FILES.values())}, and {name} is missing")
    sizes: dict[str, Size] = {}
    found = [item for task, name in FILES.items() for item in _read_file(folder / name, _READERS[task], sizes)]
    if not found:
        raise FormatError(f"{folder}: no question in {', '.join(FILES.values())}")
    return found


def _read_file(path: Path, read: "Reader", sizes: dict[str, Size]) -> list[Item]:
    found: list[Item] = []
    for index, entry in enumerate(read_json_list(path)):
        where = f"{path}: entry {index}"
        try:
            image = check_inside(text(entry, "image_name"), "image_name")
            for item in read(entry, _Masks(image, sizes)):
                place = f"{where}, {item.where}" if item.where else where
                found.append(replace(item, where=place, number=len(found)))
        except RecordError as error:
            raise FormatError(f"{where}: {error}") from None
    return found


def pieces(said: str, tags: Sequence[str]) -> list[str | int]:
    """A text cut at the tags in it: stretches of text, and for each tag its index; no stretch is empty.

    Of two tags that both fit, one being part of the other, the longer counts; <object1> is not in <object12>.
    """
    if not tags:
        return [said] if said else []
    longest_first = sorted(tags, key=len, reverse=True)
    found: list[str | int] = []
    for number, piece in enumerate(re.split(f"({'|'.join(map(_whole, longest_first))})", said)):
        if number % 2:
            found.append(tags.index(piece))
        elif piece:
            found.append(piece)
    return found


def _whole(tag: str) -> str:
    """The pattern of a tag that is no part of a longer word."""
    before = r"(?<!\w)" if re.match(r"\w", tag) else ""
    after = r"(?!\w)" if re.search(r"\w\Z", tag) else ""
    return f"{before}{re.escape(tag)}{after}"


class _Masks:
    """Masks of one image, which all have one size, whatever file they are in."""

    def __init__(self, image: str, sizes: dict[str, Size]) -> None:
        self.image, self._sizes = image, sizes

    @property
    def size(self) -> Size:
        return self._sizes[self.image]

    def read(self, segmentation: Any, may_be_empty: bool = False) -> Rle:
        size = segmentation.get("size") if isinstance(segmentation, dict) else None
        if not isinstance(size, list) or len(size) != 2 or not all(type(n) is int and n > 0 for n in size):
            raise RecordError("a mask that is no run lengths with a size [height, width]")
        known = self._sizes.setdefault(self.image, (size[0], size[1]))
        if known != tuple(size):
            raise RecordError(f"a mask of {size}, where an earlier one of {self.image} is of {list(known)}")
        return (any_rle if may_be_empty else compressed_rle)(segmentation, *known)


Reader = Callable[[Any, _Masks], Iterator[Item]]


def _descriptions(entry: Any, masks: _Masks) -> Iterator[Item]:
    for index, one in enumerate(items(entry, "object_annotations")):
        with _within(part := f"object {index}"):
            region = Region("", masks.read(value(one, "segmentation")))
            yield Item(DESCRIPTION, masks.image, masks.size, "", _said(one, "caption"), (region,), where=part)


def _choices(entry: Any, masks: _Masks) -> Iterator[Item]:
    for index, one in enumerate(items(entry, "mcqs")):
        with _within(part := f"question {index}"):
            region = Region("", masks.read(value(one, "object")))
            question, answer = _said(one, "question"), _said(one, "answer")
            _check_names(question, [GIVEN])
            options = options_of(question)
            if options and chosen(answer, options) is None:
                raise RecordError(f"the answer {answer!r} is none of the options {', '.join(map(repr, options))}")
            asked = (question, answer, (region,))
            yield Item(CHOICE, masks.image, masks.size, *asked, options=options, where=part)


def _segmentation(entry: Any, masks: _Masks) -> Iterator[Item]:
    question, answer = _said(entry, "question"), _said(entry, "answer")
    segmentations = value(entry, "segmentations")
    if not isinstance(segmentations, dict) or "" in segmentations:
        raise RecordError("'segmentations' is no object of tags with their masks")
    tags = list(segmentations)
    for said in (question, answer):
        _check_names(said, tags)
    given, answered = _named(question, tags), _named(answer, tags)
    targets = sorted(answered - given)
    if not targets:
        raise RecordError("the answer names no tag that the question does not name: nothing is to be segmented")
    regions = []
    for index, tag in enumerate(tags):
        with _within(f"tag {tag!r}"):
            if index not in given | answered:
                raise RecordError("neither the question nor the answer names it")
            regions.append(Region(tag, masks.read(segmentations[tag], may_be_empty=index not in given)))
    asked = (question, answer, tuple(regions), tuple(sorted(given)), tuple(targets))
    yield Item(SEGMENTATION, masks.image, masks.size, *asked)


_READERS: dict[str, Reader] = {DESCRIPTION: _descriptions, CHOICE: _choices, SEGMENTATION: _segmentation}


def _named(said: str, tags: Sequence[str]) -> set[int]:
    return {piece for piece in pieces(said, tags) if isinstance(piece, int)}


def _check_names(said: str, tags: Sequence[str]) -> None:
    """Raises RecordError for what looks like the name of a region and is none of the tags."""
    pattern = _NAME if any(_NAME.fullmatch(tag) for tag in tags) else _PROMPT
    for piece in pieces(said, tags):
        if isinstance(piece, str) and (name := pattern.search(piece)):
            known = ", ".join(tags) or "none"
            raise RecordError(f"{said!r} names {name[0]}, but there is no mask of it (there are: {known})")


def _said(record: Any, key: str) -> str:
    found = text(record, key)
    if not found.strip():
        raise RecordError(f"{key!r} is empty")
    return found


@contextmanager
def _within(part: str) -> Iterator[None]:
    """Names the part of an entry that an error belongs to."""
    try:
        yield
    except RecordError as error:
        raise RecordError(f"{part}: {error}") from None
