"""All parts of a conversion -> one finished folder, byte for byte that of a conversion in one go.

The parts wrote their shards to the folder already; what is missing is the proof that they are all there, the
manifest and the report.
"""

import json
from pathlib import Path

from datamodules.prepare.progress import (
    REPORT,
    FinishedShard,
    Part,
    Progress,
    check_settings,
    discard_notes,
    parts_begun,
)
from datamodules.prepare.report import Report
from datamodules.shard_index import MANIFEST, ShardError, load_index, open_shards


def merge_parts(out: Path) -> dict[Path, Report]:
    """Finishes every folder of a conversion in parts: `out` itself, or those directly in it, one for each split.

    Returns the report of each. A folder that was merged before is checked again. Raises ShardError with one line for
    a part that is missing, unfinished or of other settings, for a shard that is not as its part noted it, and for two
    samples of one key; then no folder is finished.
    """
    folders = [path for path in (out, *sorted(out.glob("*/"))) if (path / MANIFEST).exists() or parts_begun(path)]
    if not folders:
        raise ShardError(f"no part of a conversion in {out}")
    whole = {folder: _whole(folder) for folder in folders if not (folder / MANIFEST).exists()}
    return {folder: whole[folder].finish() if folder in whole else _finished(folder) for folder in folders}


def _finished(folder: Path) -> Report:
    open_shards(folder)
    discard_notes(folder)  # of a merge that was stopped in its last moment
    return Report.from_json(json.loads((folder / REPORT).read_bytes()))


def _whole(folder: Path) -> Progress:
    """The notes of all parts together, everything in them checked."""
    begun = parts_begun(folder)
    of = begun[0].of
    if of == 1:
        raise ShardError(f"the conversion into {folder} was begun without --part: run its command again to go on")
    if begun[-1].of != of:
        raise ShardError(f"{folder} has parts of {of} and of {begun[-1].of}: delete those that are not meant")
    missing = sorted({*range(of)} - {part.number for part in begun})
    if missing:
        raise ShardError(f"{folder}: {_list(missing)} of {of} {'is' if len(missing) == 1 else 'are'} missing")
    parts = [_part(folder, part) for part in begun]
    for progress in parts[1:]:
        _check_same(parts[0], progress)
    finished = {number: shard for progress in parts for number, shard in progress.finished.items()}
    _check_keys(folder, finished)
    return Progress(folder, parts[0].conversion, finished=finished)


def _part(folder: Path, part: Part) -> Progress:
    """The notes of a part that has finished, its shards as it noted them."""
    progress = Progress.read(folder, part)
    again = "run its command again to go on"
    if progress is None:
        raise ShardError(f"{folder}: {part} has not begun: {again}")
    wanted = part.shards(progress.conversion.shards)
    done = sum(number in progress.finished for number in wanted)
    if done < len(wanted):
        raise ShardError(f"{folder}: {part} has finished {done} of its {len(wanted)} shards: {again}")
    damaged = sorted({*progress.finished} - {*progress.whole_shards()})
    if damaged:
        file = progress.finished[damaged[0]].entry.file
        raise ShardError(f"{folder / file} is not the shard that {part} made: run its command again to mend it")
    return progress


def _check_same(first: Progress, other: Progress) -> None:
    try:
        check_settings(first.folder, first.conversion.settings, other.conversion.settings)
    except ShardError as error:
        raise ShardError(f"{other.part} does not belong to {first.part}: {error}") from None


def _check_keys(folder: Path, finished: dict[int, FinishedShard]) -> None:
    owners: dict[str, str] = {}
    for number in sorted(finished):
        shard = finished[number].entry
        for key in load_index(folder / shard.file).keys if shard.samples else ():
            if key in owners:
                raise ShardError(f"{folder}: {owners[key]} and {shard.file} both have the key {key!r}")
            owners[key] = shard.file


def _list(numbers: list[int]) -> str:
    """The first few of them, for a person."""
    named = ", ".join(map(str, numbers[:5])) + (f" and {len(numbers) - 5} more" if len(numbers) > 5 else "")
    return f"{'part' if len(numbers) == 1 else 'parts'} {named}"
