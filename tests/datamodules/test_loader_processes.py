"""Four sources, four workers, two processes, by both ways to start a worker: every sample once, equal counts."""

from collections import Counter
from pathlib import Path

import pytest
import torch

from datamodules.base import make_loader
from datamodules.instances import InstancesDataModule
from datamodules.mixture import MixtureDataModule
from datamodules.plan import Plan
from pixel_llm.structures import Batch
from tests.datamodules.shards import keys_of
from tests.datamodules.test_base import on_rank
from tests.tiny import toy_narratives, toy_referring, toy_regions

SOURCES = {
    "localized_narratives": (toy_narratives, "narratives_train"),
    "instances": (InstancesDataModule, "instances_train"),
    "referring": (toy_referring, "toy_unc_train"),
    "regions": (toy_regions, "toy_unc_train"),
}


def batches(toy: Path, rank: int, workers: int) -> list[Batch]:
    """One epoch of one of two processes, over all samples of all sources."""
    sources = []
    for make, folder in SOURCES.values():
        settings = {"train_shards": [str(toy / folder)], "image_size": 64, "tokenizer": str(toy / "tokenizer")}
        if make is InstancesDataModule:
            sources.append(InstancesDataModule(val_shards=[], test_shards=[], **settings))  # type: ignore[arg-type]
        else:
            sources.append(make(toy, **settings))
    mixture = MixtureDataModule(sources, [1.0] * len(sources), batch_size=3, num_workers=workers)
    shards = [source.shards("train") for source in sources]
    plan = Plan([[shard.samples for shard in source] for source in shards], seed=0)
    return list(make_loader(on_rank(mixture, rank, 2), sources, shards, plan, training=True))  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_every_sample_comes_once_and_both_processes_have_equally_many_batches(toy: Path, method: str) -> None:
    before = torch.multiprocessing.get_start_method(allow_none=True)
    torch.multiprocessing.set_start_method(method, force=True)
    try:
        ranks = [batches(toy, rank, workers=4) for rank in range(2)]
    finally:
        torch.multiprocessing.set_start_method(before, force=True)
    assert [len(found) for found in ranks] == [16, 16]
    served = Counter(pair for found in ranks for b in found for pair in zip(b.sources, b.keys, strict=True))
    assert served == Counter((name, key) for name, (_, folder) in SOURCES.items() for key in keys_of(toy / folder))
    for rank, found in enumerate(ranks):
        alone = batches(toy, rank, workers=0)
        assert [b.keys for b in found] == [b.keys for b in alone]
        assert all(torch.equal(a.images, b.images) for a, b in zip(found, alone, strict=True))
