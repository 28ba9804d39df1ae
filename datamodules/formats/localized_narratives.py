"""Reader of Localized Narratives: spoken descriptions of images with a mouse trace (Pont-Tuset et al., ECCV 2020).

One JSON object a line:

    dataset_id, image_id, annotator_id, caption,
    timed_caption: [{utterance, start_time, end_time}], seconds,
    traces: [[{x, y, t}]], strokes of points, x and y as fractions of the image (annotators do leave it), t in seconds

and two optional keys of this project: `image_file`, the path of the picture relative to the image folder, and
`mentions`: [{begin, end, bbox}], the objects that the caption names: a character span and x0 y0 x1 y1 in [0, 1].
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.formats.image_paths import check_inside
from datamodules.formats.json_lines import numbered_lines
from datamodules.formats.records import (
    BadRecord,
    RecordError,
    finite,
    four_numbers,
    identifier,
    items,
    parse_json,
    text,
    value,
    whole_number,
)

Box = tuple[float, float, float, float]

# The published files open every line with these two keys; no other place of the line can look like it.
_HEAD = re.compile(rb'\s*\{\s*"dataset_id"\s*:\s*"([^"\\]+)"\s*,\s*"image_id"\s*:\s*"([^"\\]+)"')


@dataclass(frozen=True)
class Utterance:
    """A spoken word or phrase; start and stop in seconds, not necessarily in order."""

    text: str
    start: float
    stop: float


@dataclass(frozen=True)
class Mention:
    """A character span [begin, end) of the caption that names an object; box x0 y0 x1 y1 in [0, 1]."""

    begin: int
    end: int
    box: Box


@dataclass(frozen=True, eq=False)
class Narrative:
    """One annotator's description of one image.

    trace: float64[N, 4], columns stroke, x, y, t, in the file's order. x and y are fractions of the image,
        t seconds; the reader passes on points outside the image and points that are not finite.
    """

    dataset_id: str
    image_id: str
    annotator_id: str
    caption: str
    utterances: tuple[Utterance, ...]
    trace: NDArray[np.float64]
    mentions: tuple[Mention, ...] = ()
    image_file: str | None = None


@dataclass(frozen=True)
class RecordPlace:
    """Where a record lies: the byte offset of its line and the line's number, from 1, with the image it is about."""

    dataset_id: str
    image_id: str
    offset: int
    line: int


def read_narratives(path: Path) -> Iterator[Narrative | BadRecord]:
    """Every record of a file; one that cannot be used comes as its place and the reason."""
    for number, line in numbered_lines(path):
        yield read_narrative(line, f"{path}:{number}")


def read_narrative(line: bytes, where: str) -> Narrative | BadRecord:
    """One line of a file; `where` names its place in a `BadRecord`."""
    try:
        return parse_narrative(line)
    except RecordError as error:
        return BadRecord(where, str(error))


def parse_narrative(line: bytes) -> Narrative:
    """One line of a file; RecordError with the reason where it cannot be used."""
    record = parse_json(line)
    caption = text(record, "caption")
    return Narrative(
        dataset_id=identifier(record, "dataset_id"),
        image_id=check_inside(identifier(record, "image_id"), "image_id"),
        annotator_id=identifier(record, "annotator_id"),
        caption=caption,
        utterances=tuple(_utterance(item) for item in items(record, "timed_caption")),
        trace=_trace(items(record, "traces")),
        mentions=tuple(_mention(item, len(caption)) for item in _optional_items(record, "mentions")),
        image_file=check_inside(text(record, "image_file"), "image_file") if "image_file" in record else None,
    )


def scan_narratives(path: Path) -> Iterator[RecordPlace | BadRecord]:
    """The place and the image of every record, without parsing the lines of the published files whole.

    A line with faults further on comes as a place; the fault shows when the record is read.
    """
    offset = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    yield RecordPlace(*_image_of(line), offset, number)
                except RecordError as error:
                    yield BadRecord(f"{path}:{number}", str(error))
            offset += len(line)


def _image_of(line: bytes) -> tuple[str, str]:
    head = _HEAD.match(line)
    if head is None:
        record = parse_json(line)
        return identifier(record, "dataset_id"), identifier(record, "image_id")
    try:
        return head[1].decode(), head[2].decode()
    except UnicodeDecodeError:
        raise RecordError("not UTF-8") from None


def _optional_items(record: dict[str, Any], key: str) -> list[Any]:
    return items(record, key) if key in record else []


def _utterance(item: Any) -> Utterance:
    return Utterance(
        text(item, "utterance"),
        finite(value(item, "start_time"), "start_time"),
        finite(value(item, "end_time"), "end_time"),
    )


def _mention(item: Any, caption_length: int) -> Mention:
    begin, end = whole_number(item, "begin"), whole_number(item, "end")
    if not 0 <= begin < end <= caption_length:
        raise RecordError("a mention's span is not within the caption")
    box = four_numbers(item, "bbox")
    if box[0] > box[2] or box[1] > box[3]:
        raise RecordError("a mention's box has its corners swapped")
    return Mention(begin, end, box)


def _trace(strokes: list[Any]) -> NDArray[np.float64]:
    try:
        rows = [(i, point["x"], point["y"], point["t"]) for i, stroke in enumerate(strokes) for point in stroke]
    except (TypeError, KeyError, IndexError):
        raise RecordError("'traces' is not a list of strokes of points with x, y and t") from None
    try:
        trace = np.array(rows or np.empty((0, 4)))
    except ValueError:
        raise RecordError("'traces' holds something that is not a number") from None
    if trace.dtype.kind not in "iuf" or trace.ndim != 2:
        raise RecordError("'traces' holds something that is not a number")
    return trace.astype(np.float64)
