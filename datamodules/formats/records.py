"""What the readers of raw annotations share: records that cannot be used, and checks on values that came from JSON.

A reader never raises for one bad record: it yields a `BadRecord`, so that a caller can skip it, count it and name
it. The wording of a reason never holds a number or a name from the record, so that reasons can be counted.
"""

import gzip
import json
import math
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_GZIP = b"\x1f\x8b"


class RecordError(ValueError):
    """One record that cannot be used; the message is the reason."""


class FormatError(ValueError):
    """A whole file that cannot be used; the message is one line that names the file."""


@dataclass(frozen=True)
class BadRecord:
    """A record that was left out.

    where: the file and the place in it, `narratives.jsonl:12` or `captions.json: annotation 7`.
    reason: what is wrong, in the same words for every record with that fault.
    """

    where: str
    reason: str


def value(record: Any, key: str) -> Any:
    """record[key]; RecordError where the record is no JSON object or lacks the key."""
    if not isinstance(record, dict):
        raise RecordError("not a JSON object where one is expected")
    if key not in record:
        raise RecordError(f"missing key {key!r}")
    return record[key]


def text(record: Any, key: str) -> str:
    """A string that can be written as UTF-8 (a lone surrogate cannot)."""
    found = value(record, key)
    if not isinstance(found, str):
        raise RecordError(f"{key!r} is not a string")
    try:
        found.encode()
    except UnicodeEncodeError:
        raise RecordError(f"{key!r} is not valid Unicode") from None
    return found


def identifier(record: Any, key: str) -> str:
    """An id as a string; the published files write some as strings and some as whole numbers."""
    found = value(record, key)
    if isinstance(found, int) and not isinstance(found, bool):
        return str(found)
    if not isinstance(found, str):
        raise RecordError(f"{key!r} is neither a string nor a whole number")
    if not found.strip():
        raise RecordError(f"{key!r} is empty")
    return text(record, key)


def whole_number(record: Any, key: str) -> int:
    """An int; a bool or 3.0 is refused."""
    found = value(record, key)
    if not isinstance(found, int) or isinstance(found, bool):
        raise RecordError(f"{key!r} is not a whole number")
    return found


def items(record: Any, key: str) -> list[Any]:
    """A list."""
    found = value(record, key)
    if not isinstance(found, list):
        raise RecordError(f"{key!r} is not a list")
    return found


def finite(found: Any, name: str) -> float:
    """A JSON number as a float; NaN, the infinities and numbers beyond a float's range are refused."""
    if not isinstance(found, int | float) or isinstance(found, bool):
        raise RecordError(f"{name!r} is not a number")
    try:
        number = float(found)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise RecordError(f"{name!r} is not a finite number")
    return number


def four_numbers(record: Any, key: str) -> tuple[float, float, float, float]:
    """A list of four finite numbers, such as a box."""
    found = items(record, key)
    if len(found) != 4:
        raise RecordError(f"{key!r} does not hold four numbers")
    a, b, c, d = (finite(number, key) for number in found)
    return a, b, c, d


def check_pixels(path: Path, boxes: Iterable[Sequence[float]]) -> None:
    """Raises FormatError where all boxes of a file, of any form, are shares of the image in place of pixels."""
    fractions = False
    for number in (number for box in boxes for number in box):
        if not 0 <= number <= 1:
            return
        fractions |= 0 < number < 1
    if fractions:
        raise FormatError(f"{path}: all boxes lie within [0, 1]: give pixels of the original image")


def parse_json(data: bytes) -> Any:
    """UTF-8 JSON -> its value; RecordError where it is neither."""
    try:
        return json.loads(data.removeprefix(b"\xef\xbb\xbf").decode())
    except UnicodeDecodeError:
        raise RecordError("not UTF-8") from None
    except (ValueError, RecursionError):
        raise RecordError("broken JSON") from None


def read_json(path: Path) -> Any:
    """The value of a JSON file, also one packed with gzip; FormatError with the file's name where it is none."""
    try:
        data = path.read_bytes()
        return parse_json(gzip.decompress(data) if data.startswith(_GZIP) else data)
    except (RecordError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise FormatError(f"{path}: {error}") from None


def read_json_object(path: Path) -> dict[str, Any]:
    """A file that is one JSON object; FormatError with the file's name where it is not."""
    found = read_json(path)
    if not isinstance(found, dict):
        raise FormatError(f"{path}: not a JSON object")
    return found


def read_json_list(path: Path) -> list[Any]:
    """A file that is one JSON list; FormatError with the file's name where it is not."""
    found = read_json(path)
    if not isinstance(found, list):
        raise FormatError(f"{path}: not a JSON list")
    return found
