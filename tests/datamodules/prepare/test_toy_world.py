"""The toy world: splits apart, annotations that agree with the pixels and each other, a hand like an annotator's."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from datamodules.formats import coco, localized_narratives
from datamodules.prepare.command import main
from datamodules.prepare.toy_world.render import render
from datamodules.prepare.toy_world.scene import COLOURS, SHAPES, SPLITS, make_scene
from datamodules.prepare.toy_world.write import write_toy_world

IMAGES = {"train": 40, "val": 12, "test": 12, "test_unseen_pairs": 12}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("world") / "raw"
    sizes = ["--train", "40", "--val", "12", "--test", "12"]
    assert main(["toy", "--out", str(out), *sizes, "--seed", "5", "--workers", "2"]) == 0
    return out


def narratives(world: Path, split: str) -> list[dict[str, Any]]:
    path = world / f"annotations/toy_{split}_localized_narratives.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def instances(world: Path, split: str) -> COCO:
    return COCO(str(world / f"annotations/instances_{split}.json"))


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write(out: Path, workers: int = 1, seed: int = 5, progress: Any = lambda items, *_: items) -> dict[str, bytes]:
    write_toy_world(out, IMAGES, seed, workers, progress)
    return files(out)


def test_the_bytes_do_not_depend_on_the_number_of_workers(world: Path, tmp_path: Path) -> None:
    assert write(tmp_path / "one") == files(world)
    other = write(tmp_path / "seed", seed=6)
    assert not {data for name, data in other.items() if name.endswith("jpg")} & set(files(world).values())


class PowerCut(Exception):
    pass


def test_an_interrupted_run_goes_on_behind_its_finished_splits(world: Path, tmp_path: Path) -> None:
    def cut(items: Iterable[Any], total: int, description: str) -> Iterator[Any]:
        for number, item in enumerate(items):
            if "val" in description and number == 5:
                raise PowerCut
            yield item

    with pytest.raises(PowerCut):
        write(tmp_path, progress=cut)
    finished = tmp_path / "images/train/000000000001.jpg"
    before = finished.stat().st_mtime_ns
    assert write(tmp_path) == files(world)
    assert finished.stat().st_mtime_ns == before


def test_splits_share_no_scene(world: Path) -> None:
    pictures = [path.read_bytes() for path in world.rglob("*.jpg")]
    assert len(set(pictures)) == len(pictures) == sum(IMAGES.values())
    layouts = []
    for split in SPLITS:
        annotated = instances(world, split)
        for image in annotated.getImgIds():
            objects = annotated.loadAnns(annotated.getAnnIds(image))
            layouts.append(tuple((*o["attributes"], *o["bbox"]) for o in objects))
    assert len(set(layouts)) == len(layouts)


def test_unseen_pairs_are_seen_in_their_split_alone(world: Path) -> None:
    """Judged by the words of the narratives and by the attributes of the instances, each on its own."""
    said: dict[str, set[tuple[str, str]]] = {split: set() for split in SPLITS}
    shown: dict[str, set[tuple[str, str]]] = {split: set() for split in SPLITS}
    for split in SPLITS:
        shown[split] |= {(o["attributes"][1], o["attributes"][3]) for o in instances(world, split).anns.values()}
        for narrative in narratives(world, split):
            for mention in narrative["mentions"]:
                words = narrative["caption"][mention["begin"] : mention["end"]].lower().split()
                said[split].add((next(w for w in words if w in COLOURS), words[-1]))
    assert said == shown
    seen = shown["train"] | shown["val"] | shown["test"]
    unseen = shown["test_unseen_pairs"]
    assert not seen & unseen
    assert {colour for colour, _ in unseen} <= {colour for colour, _ in shown["train"]}
    assert {shape for _, shape in unseen} == {shape for _, shape in shown["train"]} == set(SHAPES)


@pytest.mark.parametrize("split", SPLITS)
def test_masks_and_boxes_agree(world: Path, split: str) -> None:
    annotated = instances(world, split)
    for entry in annotated.anns.values():
        mask = annotated.annToMask(entry)
        rows, columns = np.nonzero(mask)
        x, y, width, height = entry["bbox"]
        extent = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose(extent, [x, y, x + width, y + height], atol=1.01)
        assert mask.sum() == pytest.approx(entry["area"], rel=0.1)


def test_masks_lie_on_pixels_of_the_objects_colour(world: Path) -> None:
    annotated = instances(world, "train")
    plain = [entry for entry in annotated.anns.values() if entry["attributes"][2] == "plain"]
    assert len(plain) > 30
    for entry in plain:
        name = annotated.imgs[entry["image_id"]]["file_name"]
        pixels = np.asarray(Image.open(world / "images" / name))[annotated.annToMask(entry) > 0]
        colour = np.median(pixels, axis=0)
        nearest = min(COLOURS, key=lambda c: float(np.abs(colour - COLOURS[c]).sum()))
        assert nearest == entry["attributes"][1]


def test_every_object_is_inside_and_mostly_visible() -> None:
    for index in range(40):
        scene = make_scene(3, "train", index)
        _, masks = render(scene)
        for number, shape in enumerate(scene.objects):
            assert shape.radius <= shape.x <= scene.width - shape.radius
            assert shape.radius <= shape.y <= scene.height - shape.radius
            alone = render(replace(scene, objects=(shape,)))[1][0]
            assert masks[number].sum() > 0.5 * alone.sum() > 0


def spoken(narrative: dict[str, Any]) -> list[tuple[int, int, float, float]]:
    """Characters and seconds of every utterance."""
    found, end = [], 0
    for said in narrative["timed_caption"]:
        begin = narrative["caption"].index(said["utterance"], end)
        end = begin + len(said["utterance"])
        found.append((begin, end, said["start_time"], said["end_time"]))
    return found


def test_every_word_of_a_caption_is_spoken_in_turn(world: Path) -> None:
    for narrative in narratives(world, "train"):
        said = [utterance["utterance"] for utterance in narrative["timed_caption"]]
        assert said == narrative["caption"].replace(".", "").split()
        times = [time for word in spoken(narrative) for time in word[2:]]
        assert times == sorted(times)
        assert times[0] > 0


def inside(points: np.ndarray, box: list[float], margin: float = 0.0) -> np.ndarray:
    dx, dy = margin * (box[2] - box[0]), margin * (box[3] - box[1])
    across = (points[:, 0] >= box[0] - dx) & (points[:, 0] <= box[2] + dx)
    return across & (points[:, 1] >= box[1] - dy) & (points[:, 1] <= box[3] + dy)


def test_the_hand_is_on_what_is_named_and_gets_there_late(world: Path) -> None:
    """While a name is spoken, at least nine tenths of the points are within a tenth of the object's box.

    When the article before it is spoken, the hand is often still elsewhere; sometimes it shoots beyond the
    middle nine tenths of the object, which it circles well within.
    """
    late = beyond = mentions = 0
    for narrative in narratives(world, "train"):
        points = np.array([[p["x"], p["y"], p["t"]] for stroke in narrative["traces"] for p in stroke])
        words = spoken(narrative)
        for mention in narrative["mentions"]:
            first = next(i for i, word in enumerate(words) if word[1] > mention["begin"])
            last = next(i for i, word in enumerate(words) if word[1] >= mention["end"])
            named = points[(points[:, 2] >= words[first][2]) & (points[:, 2] <= words[last][3])]
            assert len(named) > 5
            assert inside(named, mention["bbox"], 0.1).mean() >= 0.9
            phrase = points[(points[:, 2] >= words[first - 1][2]) & (points[:, 2] <= words[last][3])]
            there = inside(phrase, mention["bbox"], -0.05)
            late += not there[0]
            beyond += bool((~there[there.argmax() :]).any())
            mentions += 1
    assert 0.2 < late / mentions < 0.8
    assert beyond > 0


def test_strokes_are_broken_where_the_hand_leaves(world: Path) -> None:
    """Between points of a stroke lie 25 ms, between strokes a pause; points are in the order of time."""
    broken = 0
    for narrative in narratives(world, "train"):
        strokes = [[point["t"] for point in stroke] for stroke in narrative["traces"]]
        broken += len(strokes) > 1
        for stroke in strokes:
            assert np.diff(stroke) == pytest.approx(0.025, abs=0.0011)
        for one, following in pairwise(strokes):
            assert following[0] - one[-1] > 0.05
    assert 0.3 < broken / IMAGES["train"] < 1


@pytest.mark.parametrize("split", SPLITS)
def test_our_readers_of_the_official_formats_skip_nothing(world: Path, split: str) -> None:
    folder = world / "annotations"
    read = list(localized_narratives.read_narratives(folder / f"toy_{split}_localized_narratives.jsonl"))
    assert [type(one) for one in read] == [localized_narratives.Narrative] * IMAGES[split]
    objects = list(coco.read_instances(folder / f"instances_{split}.json"))
    assert all(isinstance(one, tuple) for one in objects)
    assert len(objects) == len(instances(world, split).anns)
    captions = list(coco.read_captions(folder / f"captions_{split}.json"))
    assert all(isinstance(one, tuple) for one in captions)
    assert len(captions) == 2 * IMAGES[split]


@pytest.mark.parametrize("name", ["localized-narratives", "coco-instances", "coco-captions"])
def test_the_converters_skip_nothing(world: Path, tmp_path: Path, name: str) -> None:
    pattern = {"localized-narratives": "*.jsonl", "coco-instances": "instances_*", "coco-captions": "captions_*"}[name]
    arguments = ["--annotations", f"{world}/annotations/{pattern}", "--images", f"{world}/images"]
    assert main([name, *arguments, "--out", str(tmp_path / "out"), "--workers", "1"]) == 0
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["skipped"] == {}
    assert report["counts"]["images written"] == sum(IMAGES.values())
    assert report["counts"].get("words without time", 0) == report["counts"].get("utterances dropped", 0) == 0
