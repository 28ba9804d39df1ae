"""COCO captions as shards."""

import json
from pathlib import Path

import pytest
import webdataset as wds
from PIL import Image

from datamodules.prepare.coco_captions import open_corpus
from datamodules.prepare.shards import write_shards
from datamodules.shard_index import ShardError


def test_fields_and_counts(tmp_path: Path) -> None:
    (tmp_path / "val2017").mkdir()
    Image.new("L", (6, 4)).save(tmp_path / "val2017/3.jpg")
    entries = [(3, "A dog."), (3, " "), (7, "Nobody."), (4, ""), (3, "The dog ")]
    whole = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 6, "height": 4} for i in (3, 4, 5)],
        "annotations": [{"id": n, "image_id": i, "caption": caption} for n, (i, caption) in enumerate(entries)],
    }
    path = tmp_path / "captions_val2017.json"
    path.write_text(json.dumps(whole))
    report = write_shards(open_corpus([path]), tmp_path, tmp_path / "out")
    [sample] = wds.WebDataset(str(tmp_path / "out/shard-00000.tar"), shardshuffle=False)
    assert sample["__key__"] == "captions_val2017_3"
    assert json.loads(sample["json"]) == {
        "dataset_id": "captions_val2017",
        "image_id": "3",
        "width": 6,
        "height": 4,
        "captions": ["A dog.", "The dog"],
    }
    assert report.counts == {
        "records read": 5,
        "records written": 2,
        "images read": 3,
        "images written": 1,
        "images encoded again as upright RGB": 1,
    }
    assert report.skipped["records"]["empty caption"].examples == [f"{path}: annotation 1", f"{path}: annotation 3"]
    assert report.skipped["records"]["its image is not in 'images'"].examples == [f"{path}: annotation 2"]
    assert report.skipped["images"]["no usable record"].examples == ["captions_val2017 4"]
    assert report.skipped["images"]["without annotations"].examples == [f"{path}: image 5"]


def test_two_files_of_one_name_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"a/captions.json and .*b/captions.json have the same name"):
        open_corpus([tmp_path / "a/captions.json", tmp_path / "b/captions.json"])


@pytest.mark.shared
def test_real_captions_are_converted_whole(shared: Path, tmp_path: Path) -> None:
    path = shared / "samples/coco/captions.json"
    raw = json.loads(path.read_text())["annotations"]
    report = write_shards(open_corpus([path]), shared / "samples/images/coco", tmp_path / "out")
    assert report.counts["records written"] == len(raw)
    found = [
        (content["image_id"], caption)
        for sample in wds.WebDataset(str(tmp_path / "out/shard-00000.tar"), shardshuffle=False)
        for content in [json.loads(sample["json"])]
        for caption in content["captions"]
    ]
    assert sorted(found) == sorted((str(entry["image_id"]), entry["caption"].strip()) for entry in raw)
