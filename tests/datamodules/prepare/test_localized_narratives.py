"""Localized Narratives as shards, read back with webdataset."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset as wds
from PIL import Image

from datamodules.prepare.localized_narratives import open_corpus
from datamodules.prepare.shards import write_shards
from datamodules.shard_index import ShardError, open_shards
from tests.datamodules.prepare.conftest import MakeCorpus, narrative, write_jsonl


def samples(folder: Path) -> Iterator[dict[str, Any]]:
    """The samples in order, with the JSON part and the array decoded by other libraries than ours."""
    for tar, _ in open_shards(folder):
        for sample in wds.WebDataset(str(tar), shardshuffle=False):
            yield {**sample, "json": json.loads(sample["json"]), "trace.npy": np.load(io.BytesIO(sample["trace.npy"]))}


def convert(folder: Path, records: list[Any]) -> Any:
    write_jsonl(folder / "n-0.jsonl", records)
    return write_shards(open_corpus([folder / "n-0.jsonl"]), folder / "images", folder / "out")


def test_fields_of_a_sample(make_corpus: MakeCorpus) -> None:
    root = make_corpus(2)
    mention = {"begin": 2, "end": 10, "bbox": [0, 0.25, 0.5, 1]}
    strokes = [[{"x": 0.5, "y": 0.5, "t": 2.0}], [{"x": -0.25, "y": 1.5, "t": 1.0}, {"x": 1, "y": 0, "t": 2.0}]]
    convert(root, [narrative("0", annotator_id=9, mentions=[mention], traces=strokes), narrative("0", "so red!")])
    [sample] = samples(root / "out")
    assert sample["__key__"] == "mscoco_train2017_0"
    assert sample["jpg"] == (root / "images/000000000000.jpg").read_bytes()
    first, second = sample["json"].pop("narratives")
    assert sample["json"] == {"dataset_id": "mscoco_train2017", "image_id": "0", "width": 20, "height": 10}
    assert first == {
        "annotator_id": "9",
        "caption": "a red ball",
        "words": [[0, 1, 0, 1], [2, 5, 1, 2], [6, 10, 2, 3]],
        "utterances": [["a", 0, 1], ["red", 1, 2], ["ball", 2, 3]],
        "mentions": [[2, 10, 0, 0.25, 0.5, 1]],
    }
    assert (second["caption"], second["mentions"]) == ("so red!", [])
    trace = sample["trace.npy"]
    assert trace.dtype == np.float32
    wanted = [[0, 1, -0.25, 1.5, 1], [0, 0, 0.5, 0.5, 2], [0, 1, 1, 0, 2], [1, 0, 0, 0.5, 0.5], [1, 0, 0.1, 0.5, 1.5]]
    np.testing.assert_array_equal(trace, np.array(wanted, np.float32))


def test_an_image_gathers_its_narratives_from_all_files_in_order_of_appearance(make_corpus: MakeCorpus) -> None:
    root = make_corpus(3)
    files = [root / "n-0.jsonl", root / "n-1.jsonl"]
    report = write_shards(open_corpus(files), root / "images", root / "out")
    found = list(samples(root / "out"))
    assert [sample["json"]["image_id"] for sample in found] == ["0", "1", "2"]
    assert [[n["caption"] for n in sample["json"]["narratives"]] for sample in found] == [
        ["a red ball", "one more"]
    ] * 3
    assert report.counts["records written"] == 6


def test_a_word_that_nobody_said_has_no_time(make_corpus: MakeCorpus) -> None:
    root = make_corpus(1)
    report = convert(root, [narrative("0", timed_caption=[{"utterance": "um", "start_time": 0, "end_time": 1}])])
    [sample] = samples(root / "out")
    assert [word[2:] for word in sample["json"]["narratives"][0]["words"]] == [[None, None]] * 3
    assert (report.counts["utterances dropped"], report.counts["words without time"]) == (1, 3)


def test_narratives_without_use_are_skipped_and_counted(make_corpus: MakeCorpus) -> None:
    root = make_corpus(5)
    far = [{"x": 2.5, "y": 0, "t": 0}, {"x": float("nan"), "y": 0, "t": 1}, {"x": 0, "y": 0, "t": float("inf")}]
    records = [
        narrative("0", traces=[]),
        narrative("0", " "),
        narrative("0", traces=[far]),
        narrative("1", traces=[[*far, {"x": 2, "y": -1, "t": 3}]]),
        {"dataset_id": "mscoco_train2017", "image_id": "2"},
        narrative("99"),
        {"image_id": "3"},
    ]
    (root / "images/000000000004.jpg").write_bytes(b"\xff\xd8\xff")
    report = convert(root, [*records, narrative("4")])
    [sample] = samples(root / "out")
    assert sample["trace.npy"].tolist() == [[0, 0, 2, -1, 3]]
    assert report.counts["records read"] == 8
    assert report.counts["records written"] == 1
    assert report.counts["trace points dropped"] == 3
    jsonl = root / "n-0.jsonl"
    assert {reason: (s.count, s.examples) for reason, s in report.skipped["records"].items()} == {
        "no trace point": (2, [f"{jsonl}:1", f"{jsonl}:3"]),
        "empty caption": (1, [f"{jsonl}:2"]),
        "missing key 'caption'": (1, [f"{jsonl}:5"]),
        "image not found": (1, [f"{root}/images/train2017/000000000099.jpg"]),
        "missing key 'dataset_id'": (1, [f"{jsonl}:7"]),
        "image broken": (1, report.skipped["images"]["image broken"].examples),
    }
    assert str(root / "images/000000000004.jpg") in report.skipped["images"]["image broken"].examples[0]
    assert report.skipped["images"]["no usable record"].examples == ["mscoco_train2017 0", "mscoco_train2017 2"]


def test_two_images_of_one_key_are_an_error_that_names_both(make_corpus: MakeCorpus) -> None:
    root = make_corpus(1)
    write_jsonl(root / "n-0.jsonl", [narrative("a/b"), narrative("a.b")])
    with pytest.raises(ShardError, match=r"'mscoco_train2017 a/b' and 'mscoco_train2017 a.b' have the same key"):
        open_corpus([root / "n-0.jsonl"])


@pytest.mark.shared
def test_real_narratives_are_converted_whole(shared: Path, tmp_path: Path) -> None:
    folder = shared / "samples/localized_narratives"
    files = sorted(folder.glob("vidln_as_ln_*.jsonl"))
    raw = [json.loads(line) for path in files for line in path.read_text().splitlines()]
    report = write_shards(open_corpus(files), shared / "samples", tmp_path / "out", shard_size=10)
    assert report.skipped == {}
    assert report.counts["records read"] == report.counts["records written"] == len(raw) == 56
    assert report.counts["images read"] == report.counts["images written"] == 36
    assert report.counts["words"] == sum(len(record["caption"].split()) for record in raw)
    assert report.counts["words without time"] == report.counts["utterances dropped"] == 0
    points = {}
    for sample in samples(tmp_path / "out"):
        content, trace = sample["json"], sample["trace.npy"]
        assert Image.open(io.BytesIO(sample["jpg"])).size == (content["width"], content["height"])
        for number, found in enumerate(content["narratives"]):
            for begin, end, start, stop in found["words"]:
                assert found["caption"][begin:end].strip() == found["caption"][begin:end]
                assert start <= stop
            rows = trace[trace[:, 0] == number]
            assert (np.diff(rows[:, 4]) >= 0).all()
            points[content["image_id"], found["caption"]] = rows[np.lexsort(rows.T)][:, 2:]
    for record in raw:
        wanted = np.array([[p["x"], p["y"], p["t"]] for stroke in record["traces"] for p in stroke], np.float32)
        found = points[record["image_id"], record["caption"]]
        np.testing.assert_array_equal(np.sort(found, axis=0), np.sort(wanted, axis=0))
