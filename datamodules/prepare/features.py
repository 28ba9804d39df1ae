"""The images of data sets -> a cache of what a frozen encoder makes of them (`datamodules/features.py`).

The encoder is a function here: nothing in this file knows a model. An image is encoded once, however many data sets
share it, and what a cache holds is left as it is: the same command goes on after an interruption, and one with other
data adds what is missing. The manifest is written after every shard and says at the end that nothing is missing.
"""

import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.base import ImageSamples, Shards
from datamodules.features import FIELD, PART, Producer, cache_settings, image_key
from datamodules.loader import PlannedSource, Record
from datamodules.plan import Plan
from datamodules.prepare.progress import check_settings
from datamodules.prepare.report import Report
from datamodules.prepare.shards import IMAGES_PER_SHARD, write_shard
from datamodules.samples import Question, Sample, collate
from datamodules.shard_index import (
    MANIFEST,
    Manifest,
    ShardEntry,
    ShardError,
    is_whole,
    load_index,
    open_shards,
    read_manifest,
    shard_folders,
    write_manifest,
)
from datamodules.views import View
from pixel_llm.structures import Batch

Encode = Callable[[Tensor, Tensor], Tensor]  # canvases uint8[B, 3, S, S], sizes int[B, 2] -> float[B, D, h, w]
Track = Callable[[Iterable[Any], int, str], Iterable[Any]]  # shows the progress through so many items


@dataclass
class Pictures(Dataset[Sample | str]):
    """The pictures of some shards as training sees them, one after the other; those at `positions` as a data set.

    An item is the sample of an image, its key that of the cache; for a broken picture it is one line about it.
    """

    source: PlannedSource
    canvas: int
    positions: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, shards: Shards, canvas: int) -> "Pictures":
        plan = Plan([[shard.samples for shard in shards]], seed=None)
        return cls(PlannedSource([shards], plan, batch_size=1, num_batches=plan.samples, rank=0, world=1), canvas)

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, item: int) -> Sample | str:
        record = self.source.record(self.positions[item])
        try:
            sample = ImageSamples(_ask_nothing, self.canvas)(record, np.random.default_rng(0))
        except ValueError as error:
            return str(error)
        sample.key = image_key(record["jpg"])
        return sample


def write_features(
    pictures: Pictures,
    out: Path,
    producer: Producer,
    encode: Encode,
    *,
    part: int = 0,
    parts: int = 1,
    batch_size: int = 16,
    workers: int = 0,
    shard_size: int = IMAGES_PER_SHARD,
    track: Track = lambda items, total, description: items,
) -> Report:
    """Adds to the cache in `out` what it lacks of the pictures, and says what became of them.

    part, parts: only part I of N (0 to N - 1) of the images, by their keys, into a folder of its own within `out`.
    workers: processes that decode pictures.
    Raises ShardError with one line where `out` holds something else, and where there is nothing to hold.
    """
    folder = out if parts == 1 else out / f"{PART}{part:05d}-of-{parts:05d}"
    settings = cache_settings(producer, part, parts)
    for other in shard_folders(out):
        same = {"part": part, "parts": parts, "complete": True}  # in these the folders of a cache differ
        check_settings(other, read_manifest(other).settings | same, settings)
    folder.mkdir(parents=True, exist_ok=True)
    entries = {_number(entry): entry for entry in _whole_shards(folder)}
    report = Report(Counter({"images read": 0, "images encoded": 0}))
    pictures.positions = _missing(pictures, _known(out, folder, entries.values()), part, parts, report, track)
    encoded = iter(track(_encoded(pictures, encode, batch_size, workers, report), len(pictures), "encoding"))
    for number in (number for number in count() if number not in entries):
        entry = write_shard(folder / f"shard-{number:05d}.tar", islice(encoded, shard_size))
        if not entry.samples:
            break
        report.counts["images encoded"] += entry.samples
        entries[number] = entry
        _write_manifest(folder, settings | {"complete": False}, entries)
    if not entries and parts == 1:
        raise ShardError(f"not one image could be encoded: {report.reasons()}")
    _write_manifest(folder, settings, entries)
    return report


def _write_manifest(folder: Path, settings: dict[str, Any], entries: dict[int, ShardEntry]) -> None:
    write_manifest(folder, Manifest(settings, [entries[number] for number in sorted(entries)]))


def _number(entry: ShardEntry) -> int:
    """7 of `shard-00007.tar`."""
    return int(Path(entry.file).stem.rpartition("-")[2])


def _whole_shards(folder: Path) -> list[ShardEntry]:
    """The shards of a folder that are as its manifest says; none where it has no manifest yet."""
    there = read_manifest(folder).shards if (folder / MANIFEST).exists() else []
    return [entry for entry in there if is_whole(folder, entry)]


def _known(out: Path, folder: Path, entries: Iterable[ShardEntry]) -> set[str]:
    """The keys of images that need not be encoded: those in these shards of a folder, and in other folders of `out`."""
    own = [load_index(folder / entry.file) for entry in entries]
    others = [index for other in shard_folders(out) if other != folder for _, index in open_shards(other)]
    return {key for index in [*own, *others] for key in index.keys}


def _missing(
    pictures: Pictures, known: set[str], part: int, parts: int, report: Report, track: Track
) -> list[int]:
    """Positions of the first picture of every image of this part that is not known; records may be text alone."""
    missing, total = [], pictures.source.plan.samples
    for position in track(range(total), total, "reading images"):
        record = pictures.source.record(position)
        if "jpg" not in record:
            continue
        report.counts["images read"] += 1
        key = image_key(record["jpg"])
        if int(key, 16) % parts == part and key not in known:
            missing.append(position)
            known.add(key)
    return missing


def _encoded(
    pictures: Pictures, encode: Encode, batch_size: int, workers: int, report: Report
) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Samples of the cache: key and fields of the pictures at the positions that are not broken."""
    loader = DataLoader(
        pictures, batch_size, num_workers=workers, collate_fn=partial(_collate, pictures.canvas), shuffle=False
    )
    for batch, broken in loader:
        for line in broken:
            report.skip("images", "image broken", line)
        if batch is not None:
            values = encode(batch.images, batch.sizes).to("cpu", torch.bfloat16)
            yield from zip(batch.keys, ({FIELD: _array(value)} for value in values), strict=True)


def _array(value: Tensor) -> bytes:
    """bfloat16[D, h, w] -> a file of numpy's with its bits as int16."""
    file = io.BytesIO()
    np.save(file, value.contiguous().view(torch.int16).numpy().astype("<i2", copy=False))
    return file.getvalue()


def _collate(canvas: int, items: Sequence[Sample | str]) -> tuple[Batch | None, list[str]]:
    samples = [item for item in items if isinstance(item, Sample)]
    broken = [item for item in items if isinstance(item, str)]
    return (collate(samples, canvas, pad_id=0) if samples else None), broken


def _ask_nothing(record: Record, view: View, rng: np.random.Generator) -> list[Question]:
    return []
