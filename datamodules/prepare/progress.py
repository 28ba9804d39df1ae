"""Where a conversion stands: the notes that an interrupted run goes on from, and the files of a finished one.

`progress.jsonl` says in its first line what is converted and holds a line for every finished shard. Of a conversion
in parts each part has notes of its own, `progress-00003-of-00016.jsonl`, in the folder that all parts write their
shards to. A folder never mixes shards of two settings.
"""

import json
import os
import re
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
    is_whole,
    open_shards,
    read_manifest,
    write_manifest,
)
from pixel_llm.whole_files import write_whole

REPORT = "report.json"
Settings = dict[str, Any]

_PART_NOTES = re.compile(r"progress(?:-(\d{5,})-of-(\d{5,}))?\.jsonl")


@dataclass(frozen=True)
class Part:
    """A share of a conversion: every `of`-th of its shards, from number `number` on; the default is all of it."""

    number: int = 0
    of: int = 1

    def __str__(self) -> str:
        return f"part {self.number} of {self.of}"

    @property
    def notes(self) -> str:
        """Name of the file of notes."""
        return PROGRESS if self.of == 1 else f"progress-{self.number:05d}-of-{self.of:05d}.jsonl"

    def shards(self, total: int) -> range:
        """The numbers of its shards."""
        return range(self.number, total, self.of)


WHOLE = Part()


@dataclass(frozen=True)
class Conversion:
    """What is converted, the same for all parts of it.

    settings: what the shards are made from and how.  shards: how many there are, without samples or with.
    report: what the first reading of the annotations said.
    """

    settings: Settings
    shards: int
    report: Report


@dataclass(frozen=True)
class FinishedShard:
    """A shard that lies whole in its folder (or has no samples, and then no file), and its part of the report."""

    number: int
    entry: ShardEntry
    report: Report


@dataclass(frozen=True)
class Progress:
    """The notes of one conversion, or of one part of it.  finished: shard number -> shard."""

    folder: Path
    conversion: Conversion
    part: Part = WHOLE
    finished: dict[int, FinishedShard] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path, conversion: Conversion, part: Part = WHOLE) -> "Progress":
        """Begins the notes in a folder, or goes on with those of an earlier run.

        Raises ShardError naming what differs where that run, or another part, had other settings, and where the
        folder was begun in another number of parts.
        """
        _check_parts(folder, conversion, part)
        earlier = cls.read(folder, part)
        if earlier is not None:
            check_settings(folder, earlier.conversion.settings, conversion.settings)
        whole = earlier.whole_shards() if earlier is not None else {}
        progress = cls(folder, conversion, part, whole)
        lines = [_conversion_to_json(conversion), *map(_to_json, whole.values())]
        write_whole(folder / part.notes, b"".join(map(_line, lines)))
        return progress

    @classmethod
    def read(cls, folder: Path, part: Part) -> "Progress | None":
        """The notes as they stand in a folder; None where there are none."""
        lines = _whole_lines(folder / part.notes)
        if not lines:
            return None
        finished = {shard.number: shard for shard in map(_shard_from_json, lines[1:])}
        return cls(folder, _conversion_from_json(lines[0]), part, finished)

    def whole_shards(self) -> dict[int, FinishedShard]:
        """Those of the finished shards that lie whole in the folder."""
        return {number: shard for number, shard in self.finished.items() if _is_whole(self.folder, shard)}

    def note(self, shard: FinishedShard) -> None:
        """Adds a finished shard; on return the note is on the disk."""
        self.finished[shard.number] = shard
        with (self.folder / self.part.notes).open("ab") as file:
            file.write(_line(_to_json(shard)))
            file.flush()
            os.fsync(file.fileno())

    def report(self) -> Report:
        """What became of the records so far, the first reading included."""
        report = Report()
        report.add(self.conversion.report)
        for number in sorted(self.finished):
            report.add(self.finished[number].report)
        return report

    def finish(self) -> Report:
        """Turns the notes of all shards into manifest and report; shards without samples are not in the manifest.

        Raises ShardError where nothing could be converted.
        """
        report = self.report()
        if not any(shard.entry.samples for shard in self.finished.values()):
            discard_notes(self.folder)
            raise ShardError(f"{self.folder}: nothing could be converted: {report.reasons()}")
        shards = [self.finished[number].entry for number in sorted(self.finished)]
        content = json.dumps(report.to_json(), indent=1, ensure_ascii=False).encode()
        write_whole(self.folder / REPORT, content + b"\n")
        manifest = Manifest(self.conversion.settings, [shard for shard in shards if shard.samples])
        write_manifest(self.folder, manifest)
        discard_notes(self.folder)
        return report


def parts_begun(folder: Path) -> list[Part]:
    """The parts whose notes lie in a folder, sorted."""
    names = [_PART_NOTES.fullmatch(path.name) for path in folder.glob("progress*.jsonl")]
    parts = [Part(int(name[1]), int(name[2])) if name[1] else WHOLE for name in names if name]
    return sorted(parts, key=lambda part: (part.of, part.number))


def discard_notes(folder: Path) -> None:
    """Removes the notes of all parts."""
    for part in parts_begun(folder):
        (folder / part.notes).unlink()


def _check_parts(folder: Path, conversion: Conversion, part: Part) -> None:
    others = [other for other in parts_begun(folder) if other != part]
    if not others:
        return
    if others[0].of != part.of:
        begun = f"in {others[0].of} parts" if others[0].of > 1 else "without --part"
        raise ShardError(f"the conversion into {folder} was begun {begun}: go on like that, or delete the folder")
    other = Progress.read(folder, others[0])
    if other is not None:
        check_settings(folder, other.conversion.settings, conversion.settings)


def finished_report(folder: Path, settings: Settings, part: Part = WHOLE) -> Report | None:
    """The report of a conversion that finished in this folder; None where there is none or a shard is damaged.

    Raises ShardError naming what differs where it had other settings, and where a part alone cannot mend a damage.
    """
    if not (folder / MANIFEST).exists():
        return None
    check_settings(folder, read_manifest(folder).settings, settings)
    try:
        open_shards(folder)
        return Report.from_json(json.loads((folder / REPORT).read_bytes()))
    except (ShardError, OSError, ValueError, KeyError, TypeError) as error:
        if part.of > 1:
            raise ShardError(f"{error}: run the command without --part to make {folder} anew") from None
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


def _conversion_to_json(conversion: Conversion) -> dict[str, Any]:
    return {**vars(conversion), "report": conversion.report.to_json()}


def _conversion_from_json(content: dict[str, Any]) -> Conversion:
    """Notes of an earlier form, without `settings`, fit no settings."""
    report = Report.from_json(content.get("report", {"counts": {}, "skipped": {}}))
    return Conversion(content.get("settings", {}), content.get("shards", 0), report)


def _is_whole(folder: Path, shard: FinishedShard) -> bool:
    return not shard.entry.samples or is_whole(folder, shard.entry)


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
