"""Fields of a record as other libraries wrote them."""

import io
import json
from pathlib import Path

import numpy as np
import pytest

from datamodules.records import read_captions, read_field, read_texts, read_trace
from datamodules.shard_index import Manifest, ShardEntry, open_shards, write_index, write_manifest
from tests.datamodules.test_shard_index import write_tar


@pytest.mark.parametrize("points", [0, 1, 7, 5000])
def test_a_trace_is_what_numpy_wrote(points: int) -> None:
    trace = np.random.default_rng(points).normal(size=(points, 5)).astype(np.float32)
    file = io.BytesIO()
    np.save(file, trace)
    found = read_trace(file.getvalue())
    assert (found.dtype, found.shape) == (np.float64, (points, 5))
    np.testing.assert_array_equal(found, trace)


def test_captions_of_both_kinds_of_records() -> None:
    assert read_captions(json.dumps({"captions": ["a", "שלום"]}).encode()) == ["a", "שלום"]
    assert read_captions(json.dumps({"narratives": [{"caption": "a"}, {"caption": "b"}]}).encode()) == ["a", "b"]


def test_texts_of_all_kinds_of_records() -> None:
    for content in (
        {"captions": ["a", "b"]},
        {"narratives": [{"caption": "a"}, {"caption": "b"}]},
        {"expressions": [{"text": "a"}, {"text": "b"}]},
        {"regions": [{"phrase": "a"}, {"phrase": "b"}]},
        {"turns": [{"question": "a", "answer": "b"}], "regions": [{"counts": "1"}]},
    ):
        assert read_texts(json.dumps(content).encode()) == ["a", "b"]


def test_a_field_of_all_samples_in_order(tmp_path: Path) -> None:
    entries = []
    for name, keys in (("s0.tar", "ba"), ("s1.tar", "c")):
        files = {f"{key}.{field}": f"{key} {field}".encode() for key in keys for field in ("x", "y")}
        tar = write_tar(tmp_path / name, files)
        index = write_index(tar)
        entries.append(ShardEntry(name, len(index), index.tar_bytes))
    write_manifest(tmp_path, Manifest({}, entries))
    assert list(read_field(open_shards(tmp_path), "y")) == [b"b y", b"a y", b"c y"]
