"""A loader that serves shards in a planned order and can be stopped and resumed anywhere.

The plan says which sample stands at which position; samples are read by index with `pread` and pass through
webdataset stages. The loader's whole state is (epoch, samples consumed), the same on every rank, so a run goes on
exactly with other ranks or workers. Rank and world are passed in, never guessed.
"""

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import webdataset as wds
from torch.utils.data import IterableDataset, get_worker_info

from datamodules.plan import Plan
from datamodules.samples import Sample, collate
from datamodules.shard_index import ShardError, ShardIndex
from pixel_llm.structures import Batch

Record = dict[str, Any]  # webdataset's form: "__key__", "__url__" and one entry of bytes for each field
MakeSample = Callable[[Record, np.random.Generator], Sample]

_OPEN_FILES = 64


class PlannedSource(IterableDataset):
    """Yields this worker's share of this rank's records, batch after batch, each with its place in the plan.

    shards: for each source its shards with their indexes.  start: global batches of the epoch already consumed.
    Positions at or beyond the plan's end, which an evaluation needs for equal batch counts, repeat its beginning.
    """

    def __init__(
        self,
        shards: Sequence[Sequence[tuple[Path, ShardIndex]]],
        plan: Plan,
        batch_size: int,
        num_batches: int,
        rank: int,
        world: int,
    ) -> None:
        self.shards, self.plan, self.batch_size, self.num_batches = shards, plan, batch_size, num_batches
        self.rank, self.world = rank, world
        self.epoch = self.start = 0
        self._ends = [np.cumsum([len(index) for _, index in source]) for source in shards]
        self._files: OrderedDict[Path, int] = OrderedDict()

    def __iter__(self) -> Iterator[Record]:
        worker = get_worker_info()
        worker_id, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        for batch in range(self.start + worker_id, self.num_batches, workers):
            first = (batch * self.world + self.rank) * self.batch_size
            for position in range(first, first + self.batch_size):
                yield self.record(position)

    def record(self, position: int) -> Record:
        """The record at a position of the epoch, with `__source__`, `__place__` (epoch, position), `__repeated__`."""
        source, index = self.plan(self.epoch, position % self.plan.samples)
        shard = int(np.searchsorted(self._ends[source], index, side="right"))
        path, entries = self.shards[source][shard]
        row = index - (int(self._ends[source][shard - 1]) if shard else 0)
        file = self._open(path)
        places = zip(entries.fields, entries.offsets[row].tolist(), entries.sizes[row].tolist(), strict=True)
        data = {field: os.pread(file, size, offset) for field, offset, size in places if size >= 0}
        if sum(map(len, data.values())) != entries.sizes[row].clip(min=0).sum():
            raise ShardError(f"{path}, {entries.keys[row]}: the shard was cut short since it was opened")
        return {
            "__key__": entries.keys[row],
            "__url__": str(path),
            "__source__": source,
            "__place__": (self.epoch, position),
            "__repeated__": position >= self.plan.samples,
            **data,
        }

    def _open(self, path: Path) -> int:
        if path not in self._files:
            if len(self._files) >= _OPEN_FILES:
                os.close(self._files.popitem(last=False)[1])
            self._files[path] = os.open(path, os.O_RDONLY)
        self._files.move_to_end(path)
        return self._files[path]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": OrderedDict()}


class PlannedLoader:
    """Iterates over the batches of one epoch after another, from wherever the state says.

    make: for each source the function that turns its records into samples.
    num_batches: batches per epoch and rank.
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
    ) -> None:
        self.source, self.num_workers, self.pin_memory = source, num_workers, pin_memory
        self.stages = [
            wds.map(partial(_make_sample, make, names, seed)),
            wds.batched(source.batch_size, collation_fn=partial(collate, canvas=canvas, pad_id=pad_id)),
        ]
        self.epoch = self.consumed = 0  # consumed: global batches of this epoch

    def __len__(self) -> int:
        return self.source.num_batches

    def __iter__(self) -> Iterator[Batch]:
        if self.consumed >= len(self):
            self.epoch, self.consumed = self.epoch + 1, 0
        self.source.epoch, self.source.start = self.epoch, self.consumed
        pipeline = wds.DataPipeline(self.source, *self.stages)
        workers = min(self.num_workers, len(self) - self.consumed)
        loader = wds.WebLoader(pipeline, batch_size=None, num_workers=workers, pin_memory=self.pin_memory)
        for batch in loader:
            self.consumed += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "samples": self.consumed * self._global_batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on behind `samples` samples; raises ValueError where that is no border of the present global batches."""
        if state["samples"] % self._global_batch:
            raise ValueError(
                f"cannot resume: {state['samples']} samples were consumed, no multiple of the global batch of "
                f"{self._global_batch}; keep batch_size times the number of processes as it was"
            )
        self.epoch, self.consumed = state["epoch"], state["samples"] // self._global_batch

    @property
    def _global_batch(self) -> int:
        return self.source.batch_size * self.source.world


def _make_sample(make: Sequence[MakeSample], names: Sequence[str], seed: int, record: Record) -> Sample:
    """Random choices of a sample depend on its place in the plan alone."""
    epoch, position = record["__place__"]
    rng = np.random.default_rng([seed, 3, epoch, position])
    sample = make[record["__source__"]](record, rng)
    sample.position, sample.source = position, names[record["__source__"]]
    sample.repeated = record["__repeated__"]
    return sample
