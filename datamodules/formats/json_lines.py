"""What readers of JSON lines share, one record a line: lines with their numbers, and values that may be left out."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datamodules.formats.coco import image_size
from datamodules.formats.records import RecordError, four_numbers, text
from datamodules.formats.splits import Box, Size

Json = dict[str, Any]


def numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file that are not blank, with their numbers, from 1."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, line


def corner_box(record: Json, key: str) -> Box:
    """x0 y0 x1 y1; RecordError where they are out of order or without area."""
    x0, y0, x1, y1 = four_numbers(record, key)
    if x1 < x0 or y1 < y0:
        raise RecordError("x1 < x0 or y1 < y0: is the box x y width height?")
    if x1 == x0 or y1 == y0:
        raise RecordError("zero-area box")
    return x0, y0, x1, y1


def optional_size(record: Json) -> Size | None:
    """(width, height), None where the record gives neither."""
    return image_size(record) if "width" in record or "height" in record else None


def optional_text(record: Any, key: str) -> str | None:
    """A string, None where it is missing or null."""
    return text(record, key) if isinstance(record, dict) and record.get(key) is not None else None
