"""The other way to read shards in training, which is not exact: tars drawn at random, read from front to back.

Nothing is copied to this machine, and nothing about a run can be repeated but with the same processes and workers: each
worker draws shards of its own, a sample may come twice in an epoch or not at all, and a run that goes on from a
checkpoint goes on with other samples. As in the exact order, every process has equally many batches, and the source
of each batch, where batches are of one source, is that of the plan.
"""

import random
import tarfile
from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from operator import itemgetter
from typing import Any

import numpy as np
import webdataset as wds
from torch.utils.data import get_worker_info

from datamodules.loader import PlannedSource, Record
from datamodules.remote import TRIES, RemoteShard, file_system, wait_or_raise
from datamodules.shard_index import Shard, ShardError, split_name

_BUFFER, _FIRST = 256, 64  # records to draw from, and how many of them must be there before the first is drawn


class StreamedSource(PlannedSource):
    """Yields as many records as `PlannedSource` would, each of the planned source, in no planned order."""

    def __iter__(self) -> Iterator[Record]:
        worker = get_worker_info()
        place = [self.plan.seed or 0, 4, self.epoch, self.start, self.rank, worker.id if worker else 0]
        seeds = np.random.SeedSequence(place).generate_state(len(self.shards), np.uint64).tolist()
        self._streams = [_stream(shards, random.Random(seed)) for shards, seed in zip(self.shards, seeds, strict=True)]
        return super().__iter__()

    def record(self, position: int, substitute: int = 0) -> Record:
        source = self.plan.source(self.epoch, position)
        return self._placed(next(self._streams[source]), source, position)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_streams": []}


def _stream(shards: Sequence[Shard | RemoteShard], rng: random.Random) -> Iterator[Record]:
    """Samples without end, from shards drawn with replacement."""

    def drawn() -> Iterator[Record]:
        while True:
            yield from read_tar(rng.choice(shards))

    return iter(wds.shuffle(_BUFFER, initial=_FIRST, rng=rng)(drawn()))


def read_tar(shard: Shard | RemoteShard) -> Iterator[Record]:
    """The samples of a tar, read from front to back; where the way there fails, it goes on behind those it gave.

    Raises ShardError where that does not help, and where the tar has fewer samples than its manifest says.
    """
    given = 0
    for attempt in range(TRIES):
        try:
            for sample in islice(_samples(shard.address), given, None):
                given += 1
                yield sample
            break
        except Exception as error:  # every backend has errors of its own
            wait_or_raise(shard.address, error, attempt)
    if given != shard.samples:
        raise ShardError(f"{shard.address} has {given} samples, where its manifest says {shard.samples}")


def _samples(address: str) -> Iterator[Record]:
    system, path = file_system(address)
    with system.open(path, "rb") as file, tarfile.open(fileobj=file, mode="r|") as archive:
        for key, members in groupby(_members(address, archive), key=itemgetter(0)):
            yield {"__key__": key, "__url__": address, **{field: data for _, field, data in members}}


def _members(address: str, archive: tarfile.TarFile) -> Iterator[tuple[str, str, bytes]]:
    """Key, field and bytes."""
    for member in archive:
        content = archive.extractfile(member) if member.isreg() else None
        if content is not None:
            yield *split_name(address, member.name), content.read()
