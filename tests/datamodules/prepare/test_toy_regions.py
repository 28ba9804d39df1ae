"""The regions of the toy world: Visual Genome's form, true phrases, tight boxes, some objects described twice."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules.prepare.command import main
from datamodules.prepare.toy_world.render import render, visible_shares
from datamodules.prepare.toy_world.scene import SPLITS, make_scene

Json = dict[str, Any]
IMAGES = 30


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("world") / "raw"
    sizes = ["--train", str(IMAGES), "--val", str(IMAGES), "--test", str(IMAGES)]
    assert main(["toy", "--out", str(out), *sizes, "--seed", "5", "--workers", "2"]) == 0
    return out


def read(world: Path, split: str, kind: str) -> list[Json]:
    found: list[Json] = json.loads((world / f"annotations/toy_{split}_{kind}.json").read_text())
    return found


def tight_box(mask: np.ndarray) -> tuple[int, ...]:
    rows, columns = np.nonzero(mask)
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def corners(region: Json) -> tuple[int, ...]:
    return region["x"], region["y"], region["x"] + region["width"], region["y"] + region["height"]


def iou(a: tuple[int, ...], b: tuple[int, ...]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


@pytest.mark.parametrize("split", SPLITS)
def test_each_visible_object_is_described_by_its_attributes_in_its_box(world: Path, split: str) -> None:
    objects = regions = 0
    for index, entry in enumerate(read(world, split, "region_descriptions"), start=1):
        scene = make_scene(5, split, index)
        _, masks = render(scene)
        visible = [i for i, share in enumerate(visible_shares(scene, masks)) if share >= 0.6]
        first, again = entry["regions"][: len(visible)], entry["regions"][len(visible) :]
        for i, one in zip(visible, first, strict=True):
            said = set(scene.objects[i].attributes) - {"medium", "plain"}
            assert set(one["phrase"].split()) == said
            assert corners(one) == tight_box(masks[i])
        for one in again:
            article, phrase = one["phrase"].split(" ", 1)
            assert article in ("a", "an", "the")
            [box] = [corners(other) for other in first if other["phrase"] == phrase]
            assert iou(corners(one), box) > 0.7
            assert corners(one)[0] >= 0 <= corners(one)[1]
            assert corners(one)[2] <= scene.width
            assert corners(one)[3] <= scene.height
        objects, regions = objects + len(visible), regions + len(entry["regions"])
    assert 1.15 < regions / objects < 1.45


def test_ids_are_unique_over_all_splits(world: Path) -> None:
    entries = [entry for split in SPLITS for entry in read(world, split, "region_descriptions")]
    data = [entry for split in SPLITS for entry in read(world, split, "image_data")]
    regions = [region for entry in entries for region in entry["regions"]]
    assert len({entry["id"] for entry in entries}) == len(entries) == 4 * IMAGES
    assert [entry["image_id"] for entry in data] == [entry["id"] for entry in entries]
    assert len({region["region_id"] for region in regions}) == len(regions)


@pytest.mark.shared
def test_the_keys_are_those_of_the_real_files(shared: Path, world: Path) -> None:
    folder = shared / "samples/visual_genome"
    for kind in ("region_descriptions", "image_data"):
        [real, *_] = json.loads((folder / f"{kind}_first100.json").read_text())
        [toy, *_] = read(world, "train", kind)
        assert toy.keys() == real.keys()
        for one, other in zip(toy.get("regions", []), real.get("regions", []), strict=False):
            assert {key: type(value) for key, value in one.items()} == {k: type(v) for k, v in other.items()}


def test_the_converter_skips_nothing(world: Path, tmp_path: Path) -> None:
    source = ["--regions", f"{world}/annotations/toy_*_region_descriptions.json", "--images", f"{world}/images"]
    source += ["--image-data", f"{world}/annotations/toy_*_image_data.json"]
    assert main(["visual-genome", *source, "--out", str(tmp_path), "--workers", "1"]) == 0
    for split in SPLITS:
        report = json.loads((tmp_path / f"toy_{split}/report.json").read_text())
        assert report["skipped"] == {}
        assert report["counts"]["images written"] == IMAGES
        assert "boxes clipped to the image" not in report["counts"]
