"""The streaming order, which is not exact: what it promises all the same."""

import os
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import webdataset as wds

from datamodules import remote
from datamodules.loader import PlannedLoader
from datamodules.mixture import MixtureDataModule
from datamodules.shard_index import ShardError, open_shards
from datamodules.streaming import read_tar
from pixel_llm.structures import Batch
from tests.datamodules.shards import copy_of, damage, keys_of
from tests.datamodules.test_base import on_rank
from tests.datamodules.web import Web, served
from tests.tiny import toy_narratives, toy_referring


@pytest.fixture
def web(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setenv("PIXEL_LLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote.time, "sleep", lambda seconds: None)
    copy_of(toy / "narratives_train", tmp_path / "narratives")
    with served(tmp_path) as server:
        yield server


def keys(batches: list[Batch]) -> list[str]:
    return [key for batch in batches for key in batch.keys]


def loader(toy: Path, folder: object, rank: int = 0, world: int = 1, **changes: object) -> PlannedLoader:
    settings: dict = {"train_shards": [str(folder)], "streaming": True, "batch_size": 2, "samples_per_epoch": 120}
    return on_rank(toy_narratives(toy, **(settings | changes)), rank, world).train_dataloader()  # type: ignore[return-value]


@pytest.mark.parametrize("workers", [0, 2])
def test_every_process_has_as_many_batches_of_other_samples(toy: Path, workers: int) -> None:
    folder = toy / "narratives_train"
    ranks = [keys(list(loader(toy, folder, rank, 2, num_workers=workers))) for rank in range(2)]
    assert len(ranks[0]) == len(ranks[1]) == 60
    assert set(ranks[0] + ranks[1]) <= set(keys_of(folder))
    assert ranks[0] != ranks[1]
    again = [keys(list(loader(toy, folder, rank, 2, num_workers=workers))) for rank in range(2)]
    assert again == ranks
    other_epoch = loader(toy, folder, num_workers=workers)
    assert keys(list(other_epoch)) != keys(list(other_epoch))


def test_samples_come_about_equally_often_and_not_as_written(toy: Path) -> None:
    folder = toy / "narratives_train"  # shards of 10, 10 and 4
    drawn = [record["__key__"] for record in loader(toy, folder, samples_per_epoch=2400).source]
    counts = Counter(drawn)
    assert len(counts) == 24
    assert min(counts.values()) > 50  # 100 expected; standard deviation of a shard's draws about 9
    follows = Counter(pairwise(drawn))
    written = set(pairwise(keys_of(folder)))
    assert sum(count for pair, count in follows.items() if pair in written) < 0.1 * len(drawn)


def test_samples_are_those_of_the_exact_order(toy: Path) -> None:
    """Pixels and words of a sample, which without augmentation depend on its record alone."""
    streamed = list(loader(toy, toy / "narratives_train", batch_size=1))
    exact = list(loader(toy, toy / "narratives_train", batch_size=1, streaming=False, samples_per_epoch=24))
    pixels = {batch.keys[0]: batch.images.sum().item() for batch in exact}
    assert all(pixels[batch.keys[0]] == batch.images.sum().item() for batch in streamed)


def test_nothing_is_copied_to_this_machine(toy: Path, web: Web, tmp_path: Path) -> None:
    found = keys(list(loader(toy, f"{web.address}/narratives", num_workers=1)))
    assert len(found) == 120
    assert not (tmp_path / "cache").exists()


def test_processes_agree_on_the_source_of_each_batch(toy: Path) -> None:
    def mixture() -> MixtureDataModule:
        sources = [toy_narratives(toy), toy_referring(toy)]
        return MixtureDataModule(sources, [1, 1], batch_size=2, samples_per_epoch=80, streaming=True, num_workers=2)

    ranks = [list(on_rank(mixture(), rank, 2).train_dataloader()) for rank in range(2)]  # type: ignore[arg-type]
    sources = [[set(batch.sources) for batch in batches] for batches in ranks]
    assert sources[0] == sources[1]
    assert {"localized_narratives"} in sources[0]
    assert {"referring"} in sources[0]


def test_a_bad_record_is_skipped_and_named(toy: Path, tmp_path: Path) -> None:
    folder = copy_of(toy / "narratives_train", tmp_path / "narratives")
    bad = keys_of(folder)[3]
    tar = damage(folder, bad, "jpg")
    batches = list(loader(toy, folder))
    lines = [line for batch in batches for line in batch.skipped]
    assert lines
    assert {line.split(": ")[0] for line in lines} == {f"{tar}, {bad}"}
    assert len(keys(batches)) == 120
    assert bad not in keys(batches)
    with pytest.raises(ShardError, match=f"^{tar}, {bad}: the image cannot be read"):
        list(loader(toy, folder, strict=True))


def test_evaluation_stays_exact(toy: Path) -> None:
    module = toy_narratives(toy, streaming=True)
    found = [reference.key for batch in module.test_dataloader() for reference in batch.references if reference]
    assert [key.split("/")[0] for key in found] == keys_of(toy / "narratives_test")


class BrokenLine:
    """A file that breaks off after some bytes, so many times."""

    def __init__(self, tar: Path, breaks: int) -> None:
        self.tar, self.breaks = tar, breaks

    def __call__(self, address: str) -> tuple["BrokenLine", str]:
        return self, address

    def open(self, path: str, mode: str) -> object:
        self.breaks -= 1
        limit = 30_000 if self.breaks >= 0 else None
        file = self.tar.open(mode)

        class Limited:
            def __enter__(self) -> "Limited":
                return self

            def __exit__(self, *_: object) -> None:
                file.close()

            def read(self, size: int) -> bytes:
                if limit is not None and file.tell() + size > limit:
                    raise ConnectionResetError("the line broke")
                return file.read(size)

        return Limited()


@pytest.mark.parametrize("breaks", [1, 3])
def test_a_line_that_breaks_off_loses_and_doubles_nothing(toy: Path, monkeypatch, breaks: int) -> None:
    shard = open_shards(toy / "narratives_train")[0]
    monkeypatch.setattr("datamodules.streaming.file_system", BrokenLine(shard.path, breaks))
    monkeypatch.setattr(remote.time, "sleep", lambda seconds: None)
    theirs = list(wds.WebDataset(str(shard.path), shardshuffle=False))
    assert [s["json"] for s in read_tar(shard)] == [s["json"] for s in theirs]
    monkeypatch.setattr("datamodules.streaming.file_system", BrokenLine(shard.path, 9))
    with pytest.raises(ShardError, match=r"tar could not be read in 4 tries: ConnectionResetError the line broke$"):
        list(read_tar(shard))


def test_a_tar_with_fewer_samples_than_its_manifest_says_is_named(toy: Path, tmp_path: Path) -> None:
    folder = copy_of(toy / "narratives_train", tmp_path / "narratives")
    shard = open_shards(folder)[0]
    os.truncate(shard.path, int(shard.entries.offsets[6].min()) - 512)
    with pytest.raises(ShardError, match=r"shard-00000\.tar (has 6 samples, where its manifest says 10|could not be)"):
        list(read_tar(shard))
