"""What every kind of score reads: lines of predictions, and annotations as shards or in their raw forms."""

import json
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.formats.json_lines import numbered_lines
from datamodules.formats.records import FormatError, RecordError, four_numbers, parse_json, text
from datamodules.formats.splits import Box
from datamodules.prepare.corpus import Corpus
from datamodules.records import read_field
from datamodules.shard_index import open_shards, shard_folders

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

    Raises FormatError, naming the line, for one that is no object with a key, and where there is none at all.
    """
    found = []
    for number, line in numbered_lines(file):
        try:
            record = parse_json(line)
            found.append(Line(number, text(record, "key"), record))
        except RecordError as error:
            raise FormatError(f"{file}:{number}: {error}") from None
    if not found:
        raise FormatError(f"{file}: no predictions")
    return found


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
    paths: Sequence[Path], splits: Collection[str], kinds: tuple[str, ...], open_raw: OpenRaw, what: str
) -> Iterator[Content]:
    """The images of some splits.

    paths: folders of shards of these kinds, folders of such folders, and raw annotations that `open_raw` opens.
    what: that a record is, for the line on the error stream about those that cannot be used.
    Raises ShardError or FormatError for what is none of these.
    """
    raw = [path for path in paths if not shard_folders(path)]
    for folder in (folder for path in paths for folder in shard_folders(path)):
        for data in read_field(open_shards(folder, kinds=kinds), "json"):
            content = json.loads(data)
            if content["dataset_id"] in splits:
                yield Content(content["dataset_id"], (content["height"], content["width"]), content)
    for corpus in open_raw(raw) if raw else []:
        yield from _raw_contents(corpus, splits, what)


def _raw_contents(corpus: Corpus, splits: Collection[str], what: str) -> Iterator[Content]:
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
