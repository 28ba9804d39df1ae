"""Objects with masks: what the view shows of them, against masks painted into the picture itself."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from datamodules.base import ImageSamples
from datamodules.instances import InstanceQuestions, InstancesDataModule
from datamodules.samples import Sample, collate

BACKGROUND = 40
ATTRIBUTES = [["ball", "box"], ["red", "blue"]]


def rle(mask: np.ndarray) -> dict[str, Any]:
    code = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": code["size"], "counts": code["counts"].decode()}


def record(objects: list[tuple[int, int, int, int]], **changes: Any) -> dict[str, Any]:
    """A grey picture of 60 x 40 with a white rectangle (x0 y0 x1 y1) for each object; changes go to all objects."""
    pixels, instances = np.full((40, 60), BACKGROUND, np.uint8), []
    for number, (x0, y0, x1, y1) in enumerate(objects):
        mask = np.zeros((40, 60), bool)
        mask[y0:y1, x0:x1] = True
        pixels[mask] = 255
        instance = {"id": str(number), "category": "ball", "attributes": ["blue"], "bbox": [x0, y0, x1, y1]}
        instances.append(instance | {"rle": rle(mask), "iscrowd": False} | changes)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return {
        "__key__": "k", "__url__": "a.tar", "jpg": file.getvalue(), "json": json.dumps({"instances": instances}),
    }  # fmt: skip


def ask(record: dict[str, Any], seed: int = 0, **augmentation: Any) -> Sample:
    make = ImageSamples(InstanceQuestions(ATTRIBUTES), canvas=30, **augmentation)
    return make(record, np.random.default_rng(seed))


@pytest.mark.parametrize("seed", range(12))
def test_mask_and_box_lie_on_the_objects_pixels(seed: int) -> None:
    sample = ask(record([(12, 8, 42, 32)]), seed, scale_jitter=(0.7, 2.5), flip_probability=0.5)
    [question] = sample.questions
    assert question.mask is not None
    painted = sample.view.pixels[0] > (255 + BACKGROUND) / 2
    assert painted.any()
    outline = (painted != question.mask).sum().item()
    assert outline <= 0.5 * painted.sum().item() ** 0.5 * 4  # bilinear and nearest differ along the border alone
    height, width = painted.shape
    rows, columns = np.nonzero(painted.numpy())
    found = (columns.min() / width, rows.min() / height, (columns.max() + 1) / width, (rows.max() + 1) / height)
    assert question.prompt_box == pytest.approx(found, abs=1.01 / min(height, width))


def test_labels_are_positions_in_the_lists_of_values() -> None:
    assert ask(record([(1, 1, 9, 9)])).questions[0].labels == [0, 1]
    assert ask(record([(1, 1, 9, 9)], category="cat", attributes=["red", "odd"])).questions[0].labels == [-1, 0]


def test_crowds_are_left_out() -> None:
    mixed = record([(1, 1, 9, 9), (20, 5, 50, 30), (40, 30, 59, 39)])
    content = json.loads(mixed["json"])
    content["instances"][1]["iscrowd"] = True
    assert [q.reference.key for q in ask(mixed | {"json": json.dumps(content)}).questions] == ["k/0", "k/2"]


def test_objects_outside_the_view_are_left_out() -> None:
    corners = record([(0, 0, 8, 8), (52, 32, 60, 40)])
    found = set()
    for seed in range(20):
        sample = ask(corners, seed, scale_jitter=(2.0, 2.0))
        [question] = sample.questions  # a window of half the image's size never shows opposite corners
        assert question.mask is not None
        assert question.mask.any() == (sample.view.pixels > 200).any()
        found.add(question.reference.key)
    assert found == {"k/", "k/0", "k/1"}


def test_an_image_without_objects_still_gives_a_batch() -> None:
    """As for an image that shows a crowd alone, in a batch of one."""
    batch = collate([ask(record([(1, 1, 9, 9)], iscrowd=True))], canvas=30, pad_id=0)
    assert batch.masks is not None
    assert batch.masks.shape == (1, 30, 30)
    assert not batch.masks.any()
    assert batch.labels is not None
    assert batch.labels.tolist() == [[-1, -1]]


def test_toy_objects_come_with_their_masks(toy: Path) -> None:
    """Masks on the canvas have the area and the box that the annotations say, scaled."""
    raw = json.loads((toy / "raw/annotations/instances_test.json").read_text())
    truth = {str(entry["id"]): entry for entry in raw["annotations"]}
    module = InstancesDataModule(
        attributes=[["small", "medium", "large"]], train_shards=[], val_shards=[],
        test_shards=[str(toy / "instances_test")], tokenizer=str(toy / "tokenizer"), image_size=160, batch_size=4,
        num_workers=0,
    )  # fmt: skip
    seen = 0
    for batch in module.test_dataloader():
        assert batch.masks is not None
        assert batch.labels is not None
        for row, reference in enumerate(batch.references):
            if reference is None:
                continue
            seen += 1
            entry, image = truth[reference.key.split("/")[1]], int(batch.prompts.image_index[row])
            scale = float(batch.sizes[image][0] / batch.original_sizes[image][0])
            assert batch.masks[row].sum().item() == pytest.approx(entry["area"] * scale**2, rel=0.06)
            x, y, width, height = np.array(entry["bbox"]) * scale
            box = batch.prompts.boxes[row] * batch.sizes[image].flip(0).repeat(2)
            np.testing.assert_allclose(box, [x, y, x + width, y + height], atol=1)
            assert batch.labels[row].tolist() == [["small", "medium", "large"].index(entry["attributes"][0])]
    assert seen == len(truth)
