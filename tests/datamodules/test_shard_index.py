"""Indexes and manifests against tarfile's own reading, and every way they can fail to fit together."""

import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import webdataset as wds

from datamodules.shard_index import (
    Manifest,
    ShardEntry,
    ShardError,
    build_index,
    index_path,
    load_index,
    open_shards,
    write_index,
    write_manifest,
)

LONG = "k" * 150
FILES = {
    "a.jpg": b"picture",
    "a.json": b"{}",
    "b.jpg": b"",
    "b.trace.npy": b"n" * 600,
    f"{LONG}.jpg": b"x" * 1025,
    "sub.dir/שלום.jpg": b"y",
}


def write_tar(path: Path, files: dict[str, bytes] | list[tuple[str, bytes]], format: int = tarfile.GNU_FORMAT) -> Path:
    with tarfile.open(path, "w", format=format) as archive:
        for name, data in files.items() if isinstance(files, dict) else files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_the_index_finds_every_byte(tmp_path: Path, format: int) -> None:
    tar = write_tar(tmp_path / "x.tar", FILES, format)
    write_index(tar)
    index = load_index(tar)
    assert index.keys == ["a", "b", LONG, "sub.dir/שלום"]
    assert index.fields == ["jpg", "json", "trace.npy"]
    file = os.open(tar, os.O_RDONLY)
    found = {
        f"{key}.{field}": os.pread(file, int(size), int(offset))
        for key, offsets, sizes in zip(index.keys, index.offsets, index.sizes, strict=True)
        for field, offset, size in zip(index.fields, offsets, sizes, strict=True)
        if size >= 0
    }
    os.close(file)
    assert found == FILES


def test_the_index_agrees_with_webdataset_on_its_own_shards(tmp_path: Path) -> None:
    tar = tmp_path / "w.tar"
    with wds.TarWriter(str(tar)) as writer:
        for i in range(5):
            writer.write({"__key__": f"s{i}", "txt": "t" * i, "trace.npy": np.arange(i)})
    index = build_index(tar)
    data = tar.read_bytes()
    for row, sample in enumerate(wds.WebDataset(str(tar), shardshuffle=False)):
        assert index.keys[row] == sample["__key__"]
        for column, field in enumerate(index.fields):
            offset, size = index.offsets[row, column], index.sizes[row, column]
            assert data[offset : offset + size] == sample[field]


def test_equal_tars_give_equal_index_files(tmp_path: Path) -> None:
    for name in ("x", "y"):
        write_index(write_tar(tmp_path / f"{name}.tar", FILES))
    assert index_path(tmp_path / "x.tar").read_bytes() == index_path(tmp_path / "y.tar").read_bytes()


def test_an_empty_tar_has_an_empty_index(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "x.tar", {})
    write_index(tar)
    assert len(load_index(tar)) == 0


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a.b.jpg", "a.b.json"], "the key of 'a.b.jpg' has a dot"),
        (["a.b.c.npy"], "has a dot"),
        (["a.jpg", "a.jpg"], "two samples have the key 'a'"),
        (["a.jpg", "b.jpg", "a.json"], "two samples have the key 'a'"),
        (["readme"], "is not <key>.<field>"),
        ([".hidden"], "is not <key>.<field>"),
    ],
)
def test_names_that_do_not_tell_samples_apart_are_refused(tmp_path: Path, names: list[str], message: str) -> None:
    tar = write_tar(tmp_path / "x.tar", [(name, b"1") for name in names])
    with pytest.raises(ShardError, match=message):
        build_index(tar)


def test_a_tar_cut_anywhere_is_refused(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "x.tar", FILES)
    data = tar.read_bytes()
    last = int((build_index(tar).offsets + build_index(tar).sizes).max())
    for size in (0, 100, 512, 700, 1024, 1536, 4096, last - 1, last + 511):
        tar.write_bytes(data[:size])
        with pytest.raises(ShardError, match="is truncated"):
            build_index(tar)


def test_something_else_than_a_tar_is_refused(tmp_path: Path) -> None:
    tar = tmp_path / "x.tar"
    tar.write_bytes(b"no tar at all" * 1000)
    with pytest.raises(ShardError, match="truncated or not a tar"):
        build_index(tar)


Break = Callable[[Path], object]
FAULTS: dict[str, tuple[Break, str]] = {
    "missing tar": (lambda tar: tar.unlink(), "x.tar is missing"),
    "missing index": (lambda tar: index_path(tar).unlink(), "no index for .*x.tar: run `pixel-llm prepare index "),
    "cut tar": (lambda tar: os.truncate(tar, 600), "x.tar is truncated: 600 of "),
    "grown tar": (lambda tar: tar.open("ab").write(bytes(512)), "x.tar changed since its index was written"),
    "cut index": (lambda tar: os.truncate(index_path(tar), 300), "is no readable index"),
    "empty index": (lambda tar: os.truncate(index_path(tar), 0), "is no readable index"),
    "foreign index": (lambda tar: np.savez(index_path(tar), keys=np.array([b"a"])), "is no readable index"),
    "pickled index": (
        lambda tar: np.savez(index_path(tar), keys=np.array([None]), allow_pickle=True),
        "is no readable index",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_shard_that_does_not_fit_its_index_is_named(tmp_path: Path, fault: str) -> None:
    tar = write_tar(tmp_path / "x.tar", FILES)
    write_index(tar)
    damage, message = FAULTS[fault]
    damage(tar)
    with pytest.raises(ShardError, match=message) as raised:
        load_index(tar)
    assert "\n" not in str(raised.value)


def test_an_index_that_points_outside_the_tar_is_refused(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "x.tar", FILES)
    write_index(tar)
    stored = dict(np.load(index_path(tar)))
    stored["offsets"] = stored["offsets"] + 10**6
    np.savez(index_path(tar), **stored)
    with pytest.raises(ShardError, match="is no readable index"):
        load_index(tar)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two shards with their manifest."""
    entries = []
    for name in ("s0.tar", "s1.tar"):
        index = write_index(write_tar(tmp_path / name, FILES))
        entries.append(ShardEntry(name, len(index), index.tar_bytes))
    write_manifest(tmp_path, Manifest({"kind": "test"}, entries))
    return tmp_path


def test_a_folder_opens_in_the_order_of_its_manifest(folder: Path) -> None:
    write_tar(folder / "stray.tar", {})
    assert [(tar.name, len(index)) for tar, index in open_shards(folder)] == [("s0.tar", 4), ("s1.tar", 4)]


def replace_shard(folder: Path) -> None:
    write_index(write_tar(folder / "s1.tar", {"a.jpg": b"other"}))


FOLDER_FAULTS: dict[str, tuple[Break, str]] = {
    "manifest": (lambda folder: (folder / "manifest.json").unlink(), "has no manifest.json"),
    "unfinished": (
        lambda folder: (folder / "manifest.json").rename(folder / "progress.jsonl"),
        "has not finished: run its command again",
    ),
    "broken manifest": (lambda folder: os.truncate(folder / "manifest.json", 40), "manifest.json is broken"),
    "foreign manifest": (lambda folder: (folder / "manifest.json").write_text('{"a": 1}'), "manifest.json is broken"),
    "version": (
        lambda folder: (folder / "manifest.json").write_text('{"format": "pixel-llm shards", "version": 99}'),
        "not of the format 'pixel-llm shards', version 1",
    ),
    "shard": (lambda folder: (folder / "s1.tar").unlink(), "s1.tar is missing"),
    "index": (lambda folder: index_path(folder / "s1.tar").unlink(), "no index for .*s1.tar: run"),
    "replaced shard": (replace_shard, "s1.tar changed since .*manifest.json was written"),
}


@pytest.mark.parametrize("fault", FOLDER_FAULTS)
def test_a_folder_that_does_not_fit_together_is_named(folder: Path, fault: str) -> None:
    damage, message = FOLDER_FAULTS[fault]
    damage(folder)
    with pytest.raises(ShardError, match=message) as raised:
        open_shards(folder)
    assert str(folder) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_shards_of_another_kind_are_named(folder: Path) -> None:
    assert len(open_shards(folder, ["other", "test"])) == 2
    with pytest.raises(ShardError, match="holds test, where coco-instances is needed"):
        open_shards(folder, ["coco-instances"])


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"no folder of shards at .*nowhere"):
        open_shards(tmp_path / "nowhere")
