"""What every kind of score reads: lines of predictions, and annotations as shards or in their raw forms."""

import json
import sys
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.formats.json_lines import numbered_lines
from datamodules.formats.records import FormatError, RecordError, four_numbers, parse_json, text
from datamodules.formats.splits import Box
from datamodules.prepare.corpus import Corpus
from datamodules.records import read_field
from datamodules.shard_index import open_shards, shard_folders

_PREDICTION = "a prediction is a JSON object on a line of its own, with a key SPLIT/ID (--help shows one)"

OpenRaw = Callable[[list[Path]], Sequence[Corpus]]


class Line(NamedTuple):
    """A line of predictions.  record: the JSON object on it.  key: the one in it."""

    number: int
    key: str
    record: dict[str, Any]


class Content(NamedTuple):
    """The annotations of one image.  size: (height, width), None where unknown.  json: as shards hold it."""

    split: str
    size: tuple[int, int] | None
    json: dict[str, Any]


def read_lines(file: Path) -> list[Line]:
    """The lines of a file that are not empty.

    Raises FormatError, naming the line, for one that is no object with a key, where there is none at all, and for a
    folder.
    """
    if file.is_dir():
        raise FormatError(f"{file}: a folder, where a file of predictions is expected: {_PREDICTION}")
    found = []
    for number, line in numbered_lines(file):
        try:
            record = parse_json(line)
            found.append(Line(number, text(record, "key"), record))
        except RecordError as error:
            raise FormatError(f"{file}:{number}: {error}: {_PREDICTION}") from None
    if not found:
        raise FormatError(f"{file}: no predictions")
    return found


def named_splits(file: Path, keys: Iterable[tuple[str, int]]) -> dict[str, str]:
    """Split -> the place that first names it, of keys with the numbers of their lines."""
    named: dict[str, str] = {}
    for key, number in keys:
        named.setdefault(key.partition("/")[0], f"{file}:{number}")
    return named


def answered_box(record: dict[str, Any]) -> Box:
    """The `box` of a prediction; RecordError where it is none. One without an area is an answer, if a wrong one."""
    box = four_numbers(record, "box")
    if box[2] < box[0] or box[3] < box[1]:
        raise RecordError("'box' has x1 < x0 or y1 < y0: is it x y width height?")
    return box


def check_once(file: Path, lines: Sequence[Line]) -> None:
    """Raises FormatError, naming the line, for a key that came before."""
    first: dict[str, int] = {}
    for line in lines:
        if line.key in first:
            reason = f"a second prediction for {line.key!r}, after line {first[line.key]}"
            raise FormatError(f"{file}:{line.number}: {reason}")
        first[line.key] = line.number


def read_contents(
    paths: Sequence[Path], named: Mapping[str, str], kinds: tuple[str, ...], open_raw: OpenRaw, what: str
) -> Iterator[Content]:
    """The images of the splits that predictions name.

    paths: folders of shards of these kinds, folders of such folders, and raw annotations that `open_raw` opens.
    named: as `named_splits` gives it.
    what: that a record is, for the line on the error stream about those that cannot be used.
    Raises ShardError or FormatError for what is none of these, and for a split that they do not hold.
    """
    found = set()
    raw = [path for path in paths if not shard_folders(path)]
    for folder in (folder for path in paths for folder in shard_folders(path)):
        for data in read_field(open_shards(folder, kinds=kinds), "json"):
            content = json.loads(data)
            found.add(content["dataset_id"])
            if content["dataset_id"] in named:
                yield Content(content["dataset_id"], (content["height"], content["width"]), content)
    for corpus in open_raw(raw) if raw else []:
        found |= {image.dataset_id for image in corpus.images}
        yield from _raw_contents(corpus, named, what)
    for split, where in named.items():
        if split not in found:
            there = ", ".join(sorted(found)) or "none"
            raise FormatError(f"{where}: the annotations have no split {split!r} of a key SPLIT/ID, they hold {there}")


def _raw_contents(corpus: Corpus, splits: Container[str], what: str) -> Iterator[Content]:
    images = [image for image in corpus.images if image.dataset_id in splits]
    for image in images:
        description = corpus.describe(image, corpus.report)
        if description:
            size = description.size
            names = {"dataset_id": image.dataset_id, "image_id": image.image_id}
            yield Content(image.dataset_id, (size[1], size[0]) if size else None, names | description.content)
    unusable = corpus.report.total_skipped("records")
    if images and unusable:
        sys.stderr.write(f"{images[0].dataset_id}: {unusable:,} {what} left out ({corpus.report.reasons()})\n")
