"""A loader that serves shards in a planned order and can be stopped and resumed anywhere.

The plan says which sample stands at which position; samples are read by index with `pread` and pass through
webdataset stages. The loader's whole state is (epoch, samples consumed), the same on every rank, so a run goes on
exactly with other ranks or workers. Rank and world are passed in, never guessed.

A record that cannot be used is replaced by the one behind it in its source, so that batches stay equally long and the
order stays a function of the plan and the data.
"""

import atexit
import json
import logging
import multiprocessing
import os
import signal
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import webdataset as wds
from torch.utils.data import IterableDataset, get_worker_info

from datamodules.plan import Plan
from datamodules.remote import RemoteShard
from datamodules.samples import Sample, collate
from datamodules.shard_index import Shard, ShardError, ShardIndex
from pixel_llm.structures import Batch

Record = dict[str, Any]  # webdataset's form: "__key__", "__url__" and one entry of bytes for each field
MakeSample = Callable[[Record, np.random.Generator], Sample]

_log = logging.getLogger(__name__)
_OPEN_FILES = 64
_BAD_IN_A_ROW = 16  # so many records that cannot be used are no accident


class PlannedSource(IterableDataset):
    """Yields this worker's share of this rank's records, batch after batch, each with its place in the plan.

    shards: for each source its shards; one that lies elsewhere is fetched when it is first needed.
    start: global batches of the epoch already consumed.
    Positions at or beyond the plan's end, which an evaluation needs for equal batch counts, repeat its beginning.
    """

    def __init__(
        self,
        shards: Sequence[Sequence[Shard | RemoteShard]],
        plan: Plan,
        batch_size: int,
        num_batches: int,
        rank: int,
        world: int,
    ) -> None:
        self.shards, self.plan, self.batch_size, self.num_batches = shards, plan, batch_size, num_batches
        self.rank, self.world = rank, world
        self.epoch = self.start = 0
        self._ends = [np.cumsum([shard.samples for shard in source]) for source in shards]
        self._files: OrderedDict[tuple[int, int], _OpenShard] = OrderedDict()

    def __iter__(self) -> Iterator[Record]:
        worker = get_worker_info()
        worker_id, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        for batch in range(self.start + worker_id, self.num_batches, workers):
            first = (batch * self.world + self.rank) * self.batch_size
            for position in range(first, first + self.batch_size):
                yield self.record(position)

    def record(self, position: int, substitute: int = 0) -> Record:
        """The record at a position of the epoch, with `__source__`, `__place__` (epoch, position), `__repeated__`.

        substitute: the so many-th behind it in its source instead.
        """
        source, index = self.plan(self.epoch, position % self.plan.samples)
        index = (index + substitute) % self.plan.counts[source]
        shard = int(np.searchsorted(self._ends[source], index, side="right"))
        row = index - (int(self._ends[source][shard - 1]) if shard else 0)
        return self._placed(self._open(source, shard).read(row), source, position)

    def check(self, record: Record) -> None:
        """Raises ShardError where a record is bad because its file was changed since it was opened."""
        for file in self._files.values():
            if str(file.path) == record["__url__"]:
                file.check()

    def _placed(self, record: Record, source: int, position: int) -> Record:
        place = {"__place__": (self.epoch, position), "__repeated__": position >= self.plan.samples}
        return {**record, "__source__": source, **place}

    def _open(self, source: int, shard: int) -> "_OpenShard":
        if (source, shard) not in self._files:
            if len(self._files) >= _OPEN_FILES:
                self._files.popitem(last=False)[1].close()
            self._files[source, shard] = _OpenShard(*self.shards[source][shard].fetch())
        self._files.move_to_end((source, shard))
        return self._files[source, shard]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": OrderedDict()}


class _OpenShard:
    """A tar that is open for reading. Raises ShardError where it is not the one that its index describes."""

    def __init__(self, path: Path, index: ShardIndex) -> None:
        self.path, self.index = path, index
        try:
            self._file = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            raise ShardError(f"{path} is missing") from None
        self._state = self._stat()
        if self._state[0] != index.tar_bytes:
            self.close()
            raise ShardError(f"{path} changed since the run began")

    def read(self, row: int) -> Record:
        """The record with its `__key__` and `__url__`."""
        offsets, sizes = self.index.offsets[row].tolist(), self.index.sizes[row].tolist()
        places = zip(self.index.fields, offsets, sizes, strict=True)
        data = {field: os.pread(self._file, size, offset) for field, offset, size in places if size >= 0}
        if sum(map(len, data.values())) != sum(size for size in sizes if size >= 0):
            raise ShardError(f"{self.path}, {self.index.keys[row]}: the shard was cut short since it was opened")
        return {"__key__": self.index.keys[row], "__url__": str(self.path), **data}

    def check(self) -> None:
        if self._stat() != self._state:
            raise ShardError(f"{self.path} was changed while it was read")

    def close(self) -> None:
        os.close(self._file)

    def _stat(self) -> tuple[int, int]:
        found = os.fstat(self._file)
        return found.st_size, found.st_mtime_ns


class PlannedLoader:
    """Iterates over the batches of one epoch after another, from wherever the state says.

    make: for each source the function that turns its records into samples.
    strict: a record that cannot be used ends the run with ShardError. Else another takes its place, the first one is
        named in the log, and all are in `Batch.skipped`; many in a row end the run all the same.
    canvas, pad_id, length_multiple: see `collate`.
    """

    def __init__(
        self,
        source: PlannedSource,
        make: Sequence[MakeSample],
        names: Sequence[str],
        canvas: int,
        pad_id: int,
        seed: int,
        num_workers: int = 0,
        pin_memory: bool = False,
        strict: bool = True,
        length_multiple: int = 1,
    ) -> None:
        self.source, self.num_workers, self.pin_memory = source, num_workers, pin_memory
        stack = partial(collate, canvas=canvas, pad_id=pad_id, length_multiple=length_multiple)
        self.stages = [
            partial(_make_samples, source, make, names, seed, strict),
            wds.batched(source.batch_size, collation_fn=stack),
        ]
        self._named = False
        self.epoch = self.consumed = 0  # consumed: global batches of this epoch

    def __len__(self) -> int:
        return self.source.num_batches

    def __iter__(self) -> Iterator[Batch]:
        if self.consumed >= len(self):
            self.epoch, self.consumed = self.epoch + 1, 0
        self.source.epoch, self.source.start = self.epoch, self.consumed
        pipeline = wds.DataPipeline(self.source, *self.stages)
        workers = min(self.num_workers, len(self) - self.consumed)
        loader = wds.WebLoader(
            pipeline, batch_size=None, num_workers=workers, pin_memory=self.pin_memory, worker_init_fn=_leave_signals
        )
        for batch in loader:
            self.consumed += 1
            if batch.skipped and not self._named:
                self._named = True
                _log.warning("skipped %s (what follows is counted as data/skipped_records)", batch.skipped[0])
            yield batch

    def state_dict(self) -> dict[str, int]:
        samples = self.consumed * self._global_batch
        return {"epoch": self.epoch, "samples": samples, "global_batch": self._global_batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on behind `samples` samples; raises ValueError where that is no border of the present global batches."""
        if state["samples"] % self._global_batch:
            raise ValueError(
                f"cannot resume: {state['samples']} samples were consumed, no multiple of the global batch of "
                f"{self._global_batch}; keep batch_size times the number of processes as it was"
            )
        if (before := state.get("global_batch", self._global_batch)) != self._global_batch:
            _log.warning(
                "a global batch of %d samples, where it was %d: the training goes on, but not as it would have",
                self._global_batch, before,
            )  # fmt: skip
        self.epoch, self.consumed = state["epoch"], state["samples"] // self._global_batch

    @property
    def _global_batch(self) -> int:
        return self.source.batch_size * self.source.world


class _BadRecord(Exception):
    """A record that no sample can be made of; the message is one line that names file and key."""


def _make_samples(
    source: PlannedSource,
    make: Sequence[MakeSample],
    names: Sequence[str],
    seed: int,
    strict: bool,
    records: Iterable[Record],
) -> Iterator[Sample]:
    for record in records:
        skipped: list[str] = []
        while True:
            try:
                sample = _make_sample(make, names, seed, record)
                break
            except _BadRecord as error:
                source.check(record)
                skipped.append(str(error))
                if strict:
                    raise ShardError(skipped[0]) from error
                if len(skipped) == _BAD_IN_A_ROW:
                    raise ShardError(f"{len(skipped)} records in a row cannot be used, first {skipped[0]}") from error
            record = source.record(record["__place__"][1], len(skipped))
        sample.skipped = skipped
        yield sample


def _leave_signals(worker: int) -> None:
    """A scheduler and Ctrl-C signal all processes of a job; what to do is the training process's business."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


@atexit.register
def _end_workers() -> None:
    """Python ends such processes with SIGTERM and waits for them: for ever, if a traceback still holds a loader."""
    for process in multiprocessing.active_children():
        if process.daemon:
            process.kill()


def _make_sample(make: Sequence[MakeSample], names: Sequence[str], seed: int, record: Record) -> Sample:
    """Random choices of a sample depend on its place in the plan alone."""
    epoch, position = record["__place__"]
    rng = np.random.default_rng([seed, 3, epoch, position])
    try:
        sample = make[record["__source__"]](record, rng)
    except (ShardError, MemoryError):
        raise
    except Exception as error:  # a broken record can break anything
        raise _BadRecord(_reason(error, f"{record['__url__']}, {record['__key__']}")) from error
    sample.position, sample.source = position, names[record["__source__"]]
    sample.repeated = record["__repeated__"]
    return sample


def _reason(error: Exception, name: str) -> str:
    said = " ".join(str(error).split())
    if said.startswith(name):
        return said
    if isinstance(error, KeyError):
        return f"{name}: {said} is missing"
    if isinstance(error, json.JSONDecodeError):
        return f"{name}: broken JSON ({said})"
    return f"{name}: {type(error).__name__} {said}"
