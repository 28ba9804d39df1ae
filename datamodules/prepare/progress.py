"""Where a conversion stands: the notes that an interrupted run goes on from, and the files of a finished one.

`progress.jsonl` holds the settings in its first line and a line for every finished shard. A folder never mixes
shards of two settings.
"""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from datamodules.prepare.report import Report
from datamodules.shard_index import (
    MANIFEST,
    PROGRESS,
    Manifest,
    ShardEntry,
    ShardError,
    load_index,
    open_shards,
    read_manifest,
    write_atomically,
    write_manifest,
)

REPORT = "report.json"
Settings = dict[str, Any]


@dataclass(frozen=True)
class FinishedShard:
    """A shard that lies whole in its folder (or has no samples, and then no file), and its part of the report."""

    number: int
    entry: ShardEntry
    report: Report


@dataclass(frozen=True)
class Progress:
    """The notes of one conversion.  finished: shard number -> shard."""

    folder: Path
    settings: Settings
    finished: dict[int, FinishedShard] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path, settings: Settings) -> "Progress":
        """Begins the notes in a folder, or goes on with those of an earlier run.

        Raises ShardError naming what differs where that run had other settings.
        """
        progress = cls(folder, settings)
        lines = _whole_lines(folder / PROGRESS)
        if lines:
            check_settings(folder, lines[0], settings)
        kept = [shard for shard in map(_shard_from_json, lines[1:]) if _is_whole(folder, shard)]
        write_atomically(folder / PROGRESS, _line(settings) + b"".join(_line(_to_json(shard)) for shard in kept))
        progress.finished.update({shard.number: shard for shard in kept})
        return progress

    def note(self, shard: FinishedShard) -> None:
        """Adds a finished shard; on return the note is on the disk."""
        self.finished[shard.number] = shard
        with (self.folder / PROGRESS).open("ab") as file:
            file.write(_line(_to_json(shard)))
            file.flush()
            os.fsync(file.fileno())

    def finish(self, report: Report) -> None:
        """Turns the notes into manifest and report; shards without samples have no file and are not in it."""
        shards = [self.finished[number].entry for number in sorted(self.finished)]
        content = json.dumps(report.to_json(), indent=1, ensure_ascii=False).encode()
        write_atomically(self.folder / REPORT, content + b"\n")
        write_manifest(self.folder, Manifest(self.settings, [shard for shard in shards if shard.samples]))
        self.discard()

    def discard(self) -> None:
        """Removes the notes."""
        (self.folder / PROGRESS).unlink()


def finished_report(folder: Path, settings: Settings) -> Report | None:
    """The report of a conversion that finished in this folder; None where there is none or a shard is damaged.

    Raises ShardError naming what differs where it had other settings.
    """
    if not (folder / MANIFEST).exists():
        return None
    check_settings(folder, read_manifest(folder).settings, settings)
    try:
        open_shards(folder)
        return Report.from_json(json.loads((folder / REPORT).read_bytes()))
    except (ShardError, OSError, ValueError, KeyError, TypeError):
        (folder / MANIFEST).unlink()
        return None


def check_settings(folder: Path, found: Settings, wanted: Settings) -> None:
    """Raises ShardError naming the settings that differ."""
    different = [key for key in sorted({*found, *wanted}) if found.get(key) != wanted.get(key)]
    if different:
        changes = "; ".join(
            f"{key} {_short(found.get(key))} there, {_short(wanted.get(key))} here" for key in different
        )
        raise ShardError(f"{folder} was begun with other settings ({changes}): choose another folder or delete it")


def _short(setting: Any) -> str:
    if isinstance(setting, list):
        return "+".join(f"{part['file']} ({part['sha256'][:8]})" for part in setting)
    return str(setting)


def _is_whole(folder: Path, shard: FinishedShard) -> bool:
    if not shard.entry.samples:
        return True
    try:
        return load_index(folder / shard.entry.file).tar_bytes == shard.entry.bytes
    except ShardError:
        return False


def _whole_lines(path: Path) -> list[Any]:
    """The JSON lines of a file up to the first that was cut short; none where there is no file."""
    lines: list[Any] = []
    if path.exists():
        for line in path.read_bytes().splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:
                break
    return lines


def _line(content: Any) -> bytes:
    return json.dumps(content, sort_keys=True).encode() + b"\n"


def _to_json(shard: FinishedShard) -> dict[str, Any]:
    return {"number": shard.number, "entry": asdict(shard.entry), "report": shard.report.to_json()}


def _shard_from_json(content: dict[str, Any]) -> FinishedShard:
    return FinishedShard(content["number"], ShardEntry(**content["entry"]), Report.from_json(content["report"]))
