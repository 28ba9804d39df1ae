"""What a converter gives to the shard writer: the images of a corpus in order, and how to describe one of them."""

import functools
import glob
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datamodules.prepare.report import Report
from datamodules.shard_index import ShardError

_NOT_IN_KEYS = re.compile(r"[^A-Za-z0-9_-]")


@dataclass(frozen=True)
class ImageWork:
    """One image, and whatever its converter needs to describe it; it travels to a worker process.

    records: where its records lie, or the records themselves; only the converter knows.
    """

    dataset_id: str
    image_id: str
    records: Any

    @property
    def key(self) -> str:
        """The sample's name in a shard."""
        return _NOT_IN_KEYS.sub("_", f"{self.dataset_id}_{self.image_id}")


@dataclass(frozen=True)
class Description:
    """What a sample says about its image.

    content: the fields of its JSON part beside image_id, dataset_id, width and height.
    image_paths: where the picture may lie in the image folder, the likeliest first; none for a text about no picture.
    records: how many records the content holds.
    arrays: further fields of the sample, by name.
    size: (width, height) that the annotations are for, where they say it.
    """

    content: dict[str, Any]
    image_paths: list[str]
    records: int
    arrays: dict[str, bytes] = field(default_factory=dict)
    size: tuple[int, int] | None = None


Describe = Callable[[ImageWork, Report], Description | None]


@dataclass(frozen=True)
class Corpus:
    """The annotations of a conversion after their first reading.

    kind: name of the converter.  files: the annotation files, sorted.
    images: the work, in order of first appearance.
    describe: a function at the top of a module; counts what it skips; None where no record of the image is usable.
    report: what the first reading skipped.
    settings: what else the shards depend on, for an interrupted run to go on with the same.
    samples: what each is, for the report.
    """

    kind: str
    files: list[Path]
    images: Sequence[ImageWork]
    describe: Describe
    report: Report
    settings: dict[str, Any] = field(default_factory=dict)
    samples: str = "images"


def annotation_files(patterns: Sequence[str]) -> list[Path]:
    """The files that the patterns name, sorted, each once; ShardError for a pattern that names none."""
    return sorted(_matches(patterns, Path.is_file))


def annotation_paths(patterns: Sequence[str]) -> list[Path]:
    """The files and folders that the patterns name, as `annotation_files`."""
    return sorted(_matches(patterns, Path.exists))


def _matches(patterns: Sequence[str], fits: Callable[[Path], bool]) -> set[Path]:
    found: set[Path] = set()
    for pattern in patterns:
        # A name may hold characters of patterns, as `refs(unc).p` in a folder `[old]` does.
        names = [pattern] if Path(pattern).exists() else glob.glob(pattern, recursive=True)
        matches = {path for path in map(Path, names) if fits(path)}
        if not matches:
            raise ShardError(f"no annotation file {pattern}")
        found |= matches
    return found


def content_of(files: Sequence[Path]) -> list[dict[str, str]]:
    """Names and digests of files: equal content gives equal shards, wherever the files lie."""
    found = [(path, path.stat()) for path in files]
    return [{"file": path.name, "sha256": _digest(path, stat.st_mtime_ns, stat.st_size)} for path, stat in found]


@functools.cache
def _digest(path: Path, time: int, size: int) -> str:
    """Remembered, for all splits of a file of gigabytes ask for it; time and size tell it from a later one."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_keys(images: Sequence[ImageWork]) -> None:
    """Raises ShardError where two images would have one key."""
    owners: dict[str, tuple[str, str]] = {}
    for image in images:
        names = (image.dataset_id, image.image_id)
        first = owners.setdefault(image.key, names)
        if first != names:
            raise ShardError(f"images {' '.join(first)!r} and {' '.join(names)!r} have the same key {image.key!r}")


def check_file_names(files: Sequence[Path]) -> None:
    """Raises ShardError where two files have one stem, for converters that name images by it."""
    first: dict[str, Path] = {}
    for path in files:
        if first.setdefault(path.stem, path) != path:
            raise ShardError(f"{first[path.stem]} and {path} have the same name: their images would have the same keys")


def compact_json(content: Any) -> bytes:
    """JSON as a shard holds it: UTF-8, no blanks, keys sorted."""
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"), sort_keys=True, allow_nan=False).encode()
