"""COCO instances as shards."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import webdataset as wds
from PIL import Image
from pycocotools import mask as coco_mask

from datamodules.prepare.coco_instances import open_corpus
from datamodules.prepare.shards import write_shards

BOX = {"bbox": [1, 1, 2, 3], "category_id": 2, "segmentation": [[1, 1, 3, 1, 3, 4, 1, 4]]}


def write(folder: Path, sizes: dict[int, tuple[int, int]], annotations: list[dict[str, object]]) -> Path:
    images = [{"id": i, "file_name": f"{i}.jpg", "width": w, "height": h} for i, (w, h) in sizes.items()]
    whole = {"images": images, "categories": [{"id": 2, "name": "ball"}], "annotations": annotations}
    path = folder / "instances.json"
    path.write_text(json.dumps(whole))
    return path


def test_fields_of_an_instance(tmp_path: Path) -> None:
    Image.new("RGB", (6, 5)).save(tmp_path / "1.jpg")
    entry = {**BOX, "id": 8, "image_id": 1, "attributes": ["red"]}
    write_shards(open_corpus([write(tmp_path, {1: (6, 5)}, [entry])]), tmp_path, tmp_path / "out")
    [sample] = wds.WebDataset(str(tmp_path / "out/shard-00000.tar"), shardshuffle=False)
    [found] = json.loads(sample["json"])["instances"]
    mask = np.zeros((5, 6), np.uint8)
    mask[1:4, 1:3] = 1
    np.testing.assert_array_equal(coco_mask.decode(found.pop("rle")), mask)
    assert found == {
        "id": "8",
        "category": "ball",
        "attributes": ["red"],
        "bbox": [1, 1, 3, 4],
        "iscrowd": False,
    }


def test_an_image_of_another_size_than_annotated_is_skipped(tmp_path: Path) -> None:
    for i in (1, 2):
        Image.new("RGB", (6, 5)).save(tmp_path / f"{i}.jpg")
    path = write(tmp_path, {1: (5, 6), 2: (6, 5)}, [{**BOX, "id": i, "image_id": i} for i in (1, 2)])
    report = write_shards(open_corpus([path]), tmp_path, tmp_path / "out")
    skipped = report.skipped["images"]["image of another size than annotated"]
    assert (skipped.count, report.counts["images written"]) == (1, 1)
    assert skipped.examples == [f"{tmp_path / '1.jpg'} is (6, 5) but its annotations are for (5, 6)"]


@pytest.mark.shared
def test_real_instances_are_converted_whole(shared: Path, tmp_path: Path) -> None:
    path = shared / "samples/coco/instances.json"
    raw = {str(entry["id"]): entry for entry in json.loads(path.read_text())["annotations"]}
    report = write_shards(open_corpus([path]), shared / "samples/images/coco", tmp_path / "out")
    assert report.counts["records written"] == len(raw)
    assert report.counts["images encoded again as upright RGB"] == 1  # one photo is grey
    for sample in wds.WebDataset(str(tmp_path / "out/shard-00000.tar"), shardshuffle=False):
        content = json.loads(sample["json"])
        size = Image.open(io.BytesIO(sample["jpg"])).size
        for instance in content["instances"]:
            x, y, width, height = raw.pop(instance["id"])["bbox"]
            np.testing.assert_allclose(instance["bbox"], [x, y, x + width, y + height])
            assert instance["rle"]["size"] == [size[1], size[0]]
    assert not raw
