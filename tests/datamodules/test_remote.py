"""Shards at addresses: the same samples as from the disk, each tar fetched once, and every failure in one line."""

import errno
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import fsspec
import numpy as np
import pytest

from datamodules import remote
from datamodules.remote import RemoteShard, open_folder
from datamodules.shard_index import ShardError, index_path, open_shards
from pixel_llm.early_checks import missing_data
from pixel_llm.structures import Batch
from tests.datamodules.shards import copy_of
from tests.datamodules.test_base import on_rank
from tests.datamodules.web import Web, served
from tests.tiny import toy_narratives

TARS = [f"narratives/shard-0000{i}.tar" for i in range(3)]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PIXEL_LLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote.time, "sleep", lambda seconds: None)
    return tmp_path / "cache"


@pytest.fixture
def web(toy: Path, tmp_path: Path, cache: Path) -> Iterator[Web]:
    copy_of(toy / "narratives_train", tmp_path / "web/narratives")
    with served(tmp_path / "web") as server:
        yield server


def content(batches: list[Batch]) -> list[tuple]:
    return [(b.keys, b.positions, b.images.sum().item(), b.targets.tokens.tolist()) for b in batches]  # type: ignore[union-attr]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_training_sees_what_it_sees_on_the_disk(toy: Path, web: Web, workers: int) -> None:
    settings: dict = {"batch_size": 2, "num_workers": workers}
    local, far = toy_narratives(toy, **settings), toy_narratives(
        toy, train_shards=[f"{web.address}/narratives/"], test_shards=[f"{web.address}/narratives"], **settings
    )
    for rank in range(2):
        batches = list(on_rank(far, rank, 2).train_dataloader())
        assert content(batches) == content(list(on_rank(local, rank, 2).train_dataloader()))
    again = list(on_rank(far, 0, 1).test_dataloader())
    assert len(again) == 12
    assert {path: count for path, count in web.asked.items() if path.endswith("tar")} == dict.fromkeys(TARS, 1)


def test_a_shard_is_fetched_when_it_is_first_needed(toy: Path, web: Web) -> None:
    module = toy_narratives(toy, test_shards=[f"{web.address}/narratives"], batch_size=1)
    loader = module.test_dataloader()
    assert dict(web.asked) == {"narratives/manifest.json": 1}
    batches = iter(loader)
    next(batches)
    assert dict(web.asked) == {"narratives/manifest.json": 1, TARS[0]: 1}
    for _ in range(10):
        next(batches)
    assert TARS[1] in web.asked
    assert TARS[2] not in web.asked


def fetch(shard: RemoteShard) -> bytes:
    return shard.fetch().path.read_bytes()


def test_many_processes_fetch_a_shard_once(web: Web, tmp_path: Path) -> None:
    web.delay = 0.3
    shard = open_folder(f"{web.address}/narratives")[0]
    with ProcessPoolExecutor(4, get_context("fork")) as pool:
        found = list(pool.map(fetch, [shard] * 4))
    assert web.asked[TARS[0]] == 1
    assert found == [(tmp_path / "web" / TARS[0]).read_bytes()] * 4


def test_any_file_system_of_fsspec_will_do(toy: Path, cache: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(str(toy / "narratives_train"), "/bucket/narratives", recursive=True)
    far = [shard.fetch() for shard in open_folder("memory://bucket/narratives", ["localized-narratives"])]
    for (path, index), (true_path, true_index) in zip(far, open_shards(toy / "narratives_train"), strict=True):
        assert path.read_bytes() == true_path.read_bytes()
        assert index.keys == true_index.keys
        np.testing.assert_array_equal(index.offsets, true_index.offsets)
    with pytest.raises(ShardError, match=r"^memory://bucket/narratives holds localized-narratives, where llava is"):
        open_folder("memory://bucket/narratives", ["llava"])


def test_what_fails_for_a_while_is_tried_again(web: Web) -> None:
    web.failures |= {"narratives/manifest.json": 3, TARS[0]: 3}
    open_folder(f"{web.address}/narratives")[0].fetch()
    assert dict(web.asked) == {"narratives/manifest.json": 4, TARS[0]: 4}


def test_a_copy_that_was_damaged_or_half_made_is_fetched_anew(web: Web) -> None:
    shard = open_folder(f"{web.address}/narratives")[0]
    assert isinstance(shard, RemoteShard)
    whole = fetch(shard)
    os.truncate(shard.path, 600)
    assert fetch(shard) == whole
    index_path(shard.path).unlink()
    shard.path.with_name(shard.path.name + ".part").write_bytes(b"of a process that was killed")
    assert fetch(shard) == whole
    assert web.asked[TARS[0]] == 3
    assert sorted(path.suffix for path in shard.path.parent.iterdir()) == [".lock", ".npz", ".tar"]


def test_a_folder_that_was_made_anew_is_fetched_anew(web: Web, toy: Path, tmp_path: Path) -> None:
    before = open_folder(f"{web.address}/narratives")[0].fetch()
    for path in (tmp_path / "web/narratives").iterdir():
        path.unlink()
    for path in (toy / "narratives_val").iterdir():
        (tmp_path / "web/narratives" / path.name).write_bytes(path.read_bytes())
    after = open_folder(f"{web.address}/narratives")[0].fetch()
    assert after.entries.keys[0].startswith("toy_val")
    assert before.path.exists()


def lose(folder: Path) -> None:
    (folder / "shard-00000.tar").unlink()


def cut(folder: Path) -> None:
    os.truncate(folder / "shard-00000.tar", 5120)


def garble(folder: Path) -> None:
    tar = folder / "shard-00000.tar"
    tar.write_bytes(b"x" * tar.stat().st_size)


FAULTS = {
    "lost": (lose, r"^http://.*/narratives/shard-00000\.tar is missing$"),
    "cut": (cut, r"^http.*tar could not be read in 4 tries: OSError 5120 bytes, where its manifest says \d+$"),
    "garbled": (garble, r"^http.*/shard-00000\.tar: not the shard of its manifest \(.* is truncated or not a tar\)$"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_shard_that_is_not_as_its_manifest_says_is_named(web: Web, tmp_path: Path, cache: Path, fault: str) -> None:
    damage, message = FAULTS[fault]
    damage(tmp_path / "web/narratives")
    with pytest.raises(ShardError, match=message) as raised:
        open_folder(f"{web.address}/narratives")[0].fetch()
    assert "\n" not in str(raised.value)
    assert not list(cache.rglob("*.tar"))


def test_a_server_that_does_not_answer_is_named(cache: Path, web: Web) -> None:
    web.failures["narratives/manifest.json"] = 99
    with pytest.raises(ShardError, match=r"manifest\.json could not be read in 4 tries: ClientResponseError 503"):
        open_folder(f"{web.address}/narratives")
    nobody = "http://127.0.0.1:9/narratives"
    with pytest.raises(ShardError, match=f"^{nobody}/manifest.json could not be read in 4 tries: .*Cannot connect"):
        open_folder(nobody)


def test_what_cannot_be_an_address_of_shards_is_refused(
    cache: Path, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)  # as where it is not installed
    for folder, message in {
        "s3://bucket/narratives": "s3://bucket/narratives/manifest.json cannot be read: Install s3fs to access S3",
        "nowhere://bucket": "nowhere://bucket/manifest.json cannot be read: Protocol not known: nowhere",
        f"{web.address}/elsewhere": f"{web.address}/elsewhere/manifest.json is missing",
        "pipe:cat manifest.json": "pipe:cat manifest.json: no command is run to get data",
    }.items():
        with pytest.raises(ShardError) as raised:
            open_folder(folder)
        assert str(raised.value).startswith(message)


def test_a_full_disk_is_named_at_once(web: Web, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = open_folder(f"{web.address}/narratives")[0]

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(RemoteShard, "_get", full)
    with pytest.raises(ShardError, match=f"^no space left in {cache} for http.*tar: set PIXEL_LLM_CACHE to a larger"):
        shard.fetch()


def test_the_command_line_does_not_take_addresses_for_missing_folders(tmp_path: Path) -> None:
    data = {"train_shards": ["s3://bucket/narratives", str(tmp_path / "none")]}
    assert list(missing_data(data, ["train"])) == [f"no folder of shards at {tmp_path / 'none'}"]
