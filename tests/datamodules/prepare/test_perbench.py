"""PerBench as shards, from real files' form and from the toy world, whose questions are checked on its scenes."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from datamodules.formats.perbench import FILES, read_perbench
from datamodules.prepare.command import main
from datamodules.prepare.toy_world.render import render
from datamodules.prepare.toy_world.scene import COLOURS, SPLITS, TEXTURES, Scene, Shape, make_scene
from datamodules.prepare.toy_world.write import write_toy_world
from datamodules.records import read_field
from datamodules.shard_index import open_shards
from tests.datamodules.formats.test_perbench import HEIGHT, WIDTH, files, write

Json = dict[str, Any]
SIZES = dict.fromkeys(SPLITS, 3)
SEED = 5


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("world") / "raw"
    write_toy_world(out, SIZES | {"test": 20}, SEED, 1, lambda items, *_: items)
    return out


def pictures(folder: Path) -> Path:
    (folder / "p").mkdir(parents=True)
    for name in ("1.jpg", "p/2.jpg"):
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / name)
    return folder


def convert(annotations: Path, images: Path, out: Path) -> int:
    return main(
        ["perbench", "--annotations", str(annotations), "--images", str(images), "--out", str(out), "--workers", "1"]
    )


def contents(shards: Path) -> list[Json]:
    return [json.loads(data) for data in read_field(open_shards(shards, ["perbench"]), "json")]


def test_each_question_is_a_sample(tmp_path: Path) -> None:
    annotations, images = write(tmp_path / "My bench", files()), pictures(tmp_path / "images")
    assert convert(annotations, images, tmp_path / "out") == 0
    found = contents(tmp_path / "out")
    assert [one["image_id"] for one in found] == [
        "description/0", "description/1", "choice/0", "choice/1", "segmentation/0"
    ]  # fmt: skip
    assert {(one["dataset_id"], one["width"], one["height"]) for one in found} == {("My_bench", WIDTH, HEIGHT)}
    assert [one["image"] for one in found] == ["1.jpg", "p/2.jpg", "1.jpg", "1.jpg", "1.jpg"]
    assert found[2]["options"] == ["red", "blue"]
    assert (found[4]["inputs"], found[4]["targets"]) == ([1], [0, 2])
    asked = files()["segmentation"][0]
    assert (found[4]["question"], found[4]["answer"]) == (asked["question"], asked["answer"])
    assert {region["tag"]: region["rle"] for region in found[4]["regions"]} == asked["segmentations"]


def test_pictures_of_another_size_and_missing_ones_are_one_line(tmp_path: Path, capsys) -> None:
    annotations, images = write(tmp_path / "bench", files()), pictures(tmp_path / "images")
    Image.new("RGB", (WIDTH + 1, HEIGHT)).save(images / "1.jpg")
    assert convert(annotations, images, tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert f"{annotations}/STBench_Detailed_Caption.json: entry 0, object 0: its masks are of 8 x 6 pixels" in said
    assert len(said.splitlines()) == 1
    (images / "1.jpg").unlink()
    assert convert(annotations, images, tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert f"entry 0, object 0: {images}/1.jpg is no picture that can be read" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("split", SPLITS)
def test_the_toy_world_converts_without_a_loss(world: Path, tmp_path: Path, split: str) -> None:
    folder = world / f"annotations/toy_perbench_{split}"
    assert convert(folder, world / "images", tmp_path) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["skipped"] == {}
    found = contents(tmp_path)
    assert len(found) == len(read_perbench(folder)) > 3
    assert {one["task"] for one in found} == set(FILES)
    assert {one["dataset_id"] for one in found} == {f"toy_perbench_{split}"}


def scene_of(entry: Json) -> Scene:
    return make_scene(SEED, "test", int(Path(entry["image_name"]).stem))


def meant(rle: Json, scene: Scene) -> int:
    """The object whose painted mask a mask fits best."""
    mask = coco_mask.decode({**rle, "counts": rle["counts"].encode()}).astype(bool)
    ious = [(mask & own).sum() / (mask | own).sum() for own in render(scene)[1]]
    assert max(ious) > 0.85
    return int(np.argmax(ious))


def entries(world: Path, task: str) -> list[Json]:
    found: list[Json] = json.loads((world / "annotations/toy_perbench_test" / FILES[task]).read_text())
    assert len(found) >= 20
    return found


def is_called(shape: Shape, words: str) -> bool:
    return set(words.split()) <= set(shape.attributes)


def test_descriptions_name_attributes_place_and_neighbours(world: Path) -> None:
    for entry in entries(world, "description"):
        scene = scene_of(entry)
        for one in entry["object_annotations"]:
            shape = scene.objects[meant(one["segmentation"], scene)]
            first, _, neighbours = one["caption"].partition(" of the image.")
            assert first.startswith(f"A {' '.join(shape.attributes)} ")
            for word, inside in (
                ("left", shape.x < scene.width / 3), ("right", shape.x >= 2 * scene.width / 3),
                ("top", shape.y < scene.height / 3), ("bottom", shape.y >= 2 * scene.height / 3),
            ):  # fmt: skip
                assert (word in first.split()) == inside
            named = [one.split(" the ")[-1].rstrip(".") for one in neighbours.split(" and ")]
            assert 1 <= len(named) <= 2
            for words in named:
                assert sum(is_called(other, words) for other in scene.objects if other is not shape) >= 1


def test_choices_offer_the_truth_once(world: Path) -> None:
    letters = set()
    for item in read_perbench(world / "annotations/toy_perbench_test"):
        if item.task == "choice":
            scene = scene_of({"image_name": item.image})
            shape = scene.objects[meant(dict(item.regions[0].mask), scene)]
            letter, _, right = item.answer.partition(". ")
            letters.add(letter)
            assert item.options[ord(letter) - ord("A")] == right
            assert len(set(item.options)) == len(item.options) >= 3
            if not item.question.startswith("Where"):
                assert [option for option in item.options if option in shape.attributes] == [right]
    assert letters == set("ABCD")


def test_segmentations_mean_what_their_words_say(world: Path) -> None:
    kinds, several = set(), 0
    for entry in entries(world, "segmentation"):
        scene = scene_of(entry)
        objects = {tag: meant(rle, scene) for tag, rle in entry["segmentations"].items()}
        given = [scene.objects[i] for tag, i in objects.items() if tag in entry["question"]]
        targets = [scene.objects[i] for tag, i in objects.items() if tag in entry["answer"]]
        others = [shape for shape in scene.objects if shape not in given]
        assert given
        assert not [shape for shape in targets if shape in given]
        several += len(targets) > 1
        asked = entry["question"].partition(" <")[0]
        if asked.endswith(" as") or "colour of" in asked:
            kind = "shape" if "shape as" in asked else "colour"
            wanted = {getattr(shape, kind) for shape in given}
            assert sorted(map(id, targets)) == sorted(id(s) for s in others if getattr(s, kind) in wanted)
        elif asked.endswith("nearest to"):
            here = given[0]
            nearest = min(others, key=lambda s: np.hypot(s.x - here.x, s.y - here.y))
            assert targets == [nearest]
        else:
            _, shape, _, relation = asked.split(" ", 3)
            kind = "direction"
            dx, dy = targets[0].x - given[0].x, targets[0].y - given[0].y
            away = {"above": -dy, "below": dy, "to the left of": -dx, "to the right of": dx}[relation]
            assert away == max(abs(dx), abs(dy))
            assert targets[0].shape == shape
        kinds.add(asked.rpartition(" ")[2])
    assert {"as", "of", "to"} <= kinds
    assert several > 2


def test_nothing_else_of_the_toy_world_changed(world: Path, tmp_path: Path) -> None:
    """The digest of all other annotations, before there were questions about regions."""
    write_toy_world(tmp_path, SIZES, SEED, 1, lambda items, *_: items)
    digest = hashlib.sha256()
    for path in sorted(tmp_path.rglob("*.*")):
        name = str(path.relative_to(tmp_path))
        if path.is_file() and "perbench" not in name and path.suffix != ".jpg":
            digest.update(name.encode() + path.read_bytes())
    assert digest.hexdigest() == "b137702cb640a4bd3e8775cbc60e53fc7c6a26613838f1983881ec9da54b32a5"


def test_a_world_without_the_questions_gets_them_and_keeps_the_rest(world: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(world, old)
    for path in [*old.glob("annotations/perbench_*"), *old.glob("annotations/toy_perbench_*/*")]:
        path.unlink()
    before = {path: path.stat().st_mtime_ns for path in old.rglob("*.*") if path.is_file()}
    write_toy_world(old, SIZES | {"test": 20}, SEED, 1, lambda items, *_: items)
    assert before == {path: path.stat().st_mtime_ns for path in before}
    for path in world.rglob("*perbench*"):
        if path.is_file():
            assert (old / path.relative_to(world)).read_bytes() == path.read_bytes()
    assert COLOURS.keys() & set(TEXTURES) == set()  # so that a word of a phrase is of one kind
