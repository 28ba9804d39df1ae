"""Referring expressions of the toy world mean what they say: their words are read again and judged on the scenes."""

import io
import json
import pickle
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from pycocotools.coco import COCO

from datamodules.prepare.toy_world.refer import refer
from datamodules.prepare.toy_world.refer_several import refer_to_any_number
from datamodules.prepare.toy_world.render import render, visible_shares
from datamodules.prepare.toy_world.scene import COLOURS, SHAPES, SPLITS, Scene, Shape, make_scene
from datamodules.prepare.toy_world.write import write_toy_world

SEED = 5
IMAGES = {"train": 40, "val": 15, "test": 15, "test_unseen_pairs": 15}
GROUP_KINDS = {0: "none", 1: "one"}
NUMBERS = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6}


@pytest.fixture(scope="module")
def annotations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("world"), IMAGES)


def write(folder: Path, sizes: dict[str, int]) -> Path:
    write_toy_world(folder, sizes, SEED, workers=1, progress=lambda items, *_: items)
    return folder / "annotations"


class PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> NoReturn:
        raise AssertionError(f"{module}.{name} is no plain data")


@pytest.fixture(scope="module")
def refs(annotations: Path) -> list[dict[str, Any]]:
    data = (annotations / "toy/refs(unc).p").read_bytes()
    assert data[:2] == b"\x80\x02"  # protocol 2, which Python 2 tools read too
    return PlainUnpickler(io.BytesIO(data)).load()


@pytest.fixture(scope="module")
def grefs(annotations: Path) -> list[dict[str, Any]]:
    return json.loads((annotations / "toy_grefcoco/grefs(unc).json").read_text())


make_toy_scene = cache(partial(make_scene, SEED))


def scene_of(ref: dict[str, Any]) -> Scene:
    return make_toy_scene(ref["split"], int(Path(ref["file_name"]).stem))


def sentences(refs: list[dict[str, Any]], kind: str) -> Iterator[tuple[Scene, int, str]]:
    """Scene, index of the object that is meant, and the words."""
    for ref in refs:
        for sentence in ref["sentences"]:
            if sentence["kind"] == kind:
                yield scene_of(ref), ref["ann_id"] % 10, sentence["sent"]


def called(name: str, scene: Scene) -> set[int]:
    """Objects of which every word of the name is true."""
    words = {word for word in name.removeprefix("the ").split() if word != "shape"}
    return {i for i, shape in enumerate(scene.objects) if words <= set(shape.attributes)}


def lies(relation: str, a: Shape, b: Shape) -> bool:
    """Whether a is left of, right of, above or below b: by the longer of the two distances."""
    dx, dy = a.x - b.x, a.y - b.y
    far = max(abs(dx), abs(dy))
    return far == {"to the left of": -dx, "to the right of": dx, "above": -dy, "below": dy}[relation]


def split_relation(text: str) -> tuple[str, str, str]:
    found = re.fullmatch(r"(.+) (to the left of|to the right of|above|below) the (.+)", text)
    assert found
    return found[1], found[2], found[3]


def test_attributes_are_true_of_one_object_alone(refs: list[dict[str, Any]]) -> None:
    orders, articles = set(), Counter()
    for scene, target, text in sentences(refs, "attributes"):
        assert called(text, scene) == {target}
        said = text.removeprefix("the ").split()
        kinds = [next((k for k, word in enumerate(scene.objects[target].attributes) if word == w), 3) for w in said]
        assert kinds == sorted(set(kinds))  # size, colour, texture, shape
        assert kinds[-1] == 3
        assert not {"medium", "plain"} & set(said)
        orders.add(tuple(kinds))
        articles[text.startswith("the ")] += 1
    assert len(orders) == 8
    assert 0.4 < articles[True] / articles.total() < 0.6


def test_relations_are_true_of_one_object_alone_and_mostly_needed(refs: list[dict[str, Any]]) -> None:
    needed = []
    relations = set()
    for scene, target, text in sentences(refs, "relation"):
        name, relation, anchor = split_relation(text)
        (other,) = called(anchor, scene)
        alike = called(name, scene)
        there = {i for i in alike - {other} if lies(relation, scene.objects[i], scene.objects[other])}
        assert there == {target}
        needed.append(len(alike) > 1)
        relations.add(relation)
    assert np.mean(needed) > 0.8
    assert len(relations) == 4


def test_places_are_clear_among_several_objects_of_a_name(refs: list[dict[str, Any]]) -> None:
    ways = {
        "leftmost": (-1, 0),
        "rightmost": (1, 0),
        "left": (-1, 0),
        "right": (1, 0),
        "top": (0, -1),
        "bottom": (0, 1),
    }
    said = Counter()
    for scene, target, text in sentences(refs, "place"):
        found = re.fullmatch(r"(?:the )?(?:(.*most) (.+)|(.+) (?:on|at) the (.+))", text)
        assert found
        way, name = (found[1], found[2]) if found[1] else (found[4], found[3])
        u, v = ways[way]
        reach = {i: u * scene.objects[i].x + v * scene.objects[i].y for i in called(name, scene)}
        assert len(reach) > 1
        mine = reach.pop(target)
        assert mine > max(reach.values()) + 6
        assert mine > (u * scene.width + v * scene.height) / 2
        said[way] += 1
    assert set(said) == set(ways)


@pytest.mark.parametrize("split", SPLITS)
def test_nearly_every_object_has_three_expressions_and_a_third_are_relations(
    refs: list[dict[str, Any]], split: str
) -> None:
    mine = [ref for ref in refs if ref["split"] == split]
    objects = sum(len(make_toy_scene(split, i).objects) for i in range(1, IMAGES[split] + 1))
    texts = [[sentence["sent"].removeprefix("the ") for sentence in ref["sentences"]] for ref in mine]
    assert all(len(set(said)) == len(said) <= 3 for said in texts)
    assert sum(len(said) == 3 for said in texts) > 0.95 * objects
    kinds = Counter(sentence["kind"] for ref in mine for sentence in ref["sentences"])
    assert set(kinds) == {"attributes", "place", "relation"}
    assert kinds["relation"] > 0.33 * kinds.total()


def test_ids_are_unique_over_splits_and_lead_to_the_instances(annotations: Path, refs: list[dict[str, Any]]) -> None:
    together = COCO(str(annotations / "toy/instances.json"))
    assert len(together.imgs) == sum(IMAGES.values())
    apart = {split: COCO(str(annotations / f"instances_{split}.json")) for split in SPLITS}
    assert len(together.anns) == sum(len(one.anns) for one in apart.values())
    for ref in refs:
        instance = together.anns[ref["ann_id"]]
        assert (instance["image_id"], instance["category_id"]) == (ref["image_id"], ref["category_id"])
        assert together.imgs[ref["image_id"]]["file_name"] == ref["file_name"]
        assert (annotations.parent / "images" / ref["file_name"]).is_file()
        number = int(Path(ref["file_name"]).stem)
        original = apart[ref["split"]].loadAnns(apart[ref["split"]].getAnnIds(number))[ref["ann_id"] % 10]
        np.testing.assert_array_equal(together.annToMask(instance), apart[ref["split"]].annToMask(original))
        assert ref["sent_ids"] == [sentence["sent_id"] for sentence in ref["sentences"]]
        assert all(" ".join(s["tokens"]) == s["sent"] == s["raw"] for s in ref["sentences"])
    assert len({ref["ref_id"] for ref in refs}) == len({ref["ann_id"] for ref in refs}) == len(refs)
    numbers = [number for ref in refs for number in ref["sent_ids"]]
    assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize("split", SPLITS)
def test_mdetr_files_say_the_same_and_mark_the_name(annotations: Path, refs: list[dict[str, Any]], split: str) -> None:
    told = COCO(str(annotations / f"toy_unc_{split}_mdetr.json"))
    instances = COCO(str(annotations / "toy/instances.json")).anns
    said = {(r["image_id"], r["ann_id"], s["sent"]) for r in refs if r["split"] == split for s in r["sentences"]}
    found = set()
    for image in told.imgs.values():
        (entry,) = told.imgToAnns[image["id"]]
        found.add((image["original_id"], entry["original_id"], image["caption"]))
        instance = instances[entry["original_id"]]
        assert all(entry[key] == instance[key] for key in ("bbox", "area", "category_id", "segmentation", "iscrowd"))
        ((begin, end),) = entry["tokens_positive"]
        name = image["caption"][begin:end]
        assert set(name.split()) <= {*instance["attributes"], "shape"}
        assert name.split()[-1] in (*SHAPES, "shape")
        left_over = image["caption"][:begin] + image["caption"][end:]
        assert re.match(r"(the |leftmost |rightmost )*($| on | at | to | above | below )", left_over)
    assert found == said
    assert len({image["refexp_id"] for image in told.imgs.values()}) == len(told.imgs) == len(said)


def test_none_and_several_mean_what_they_say(annotations: Path, grefs: list[dict[str, Any]]) -> None:
    instances = COCO(str(annotations / "toy_grefcoco/instances.json"))
    counts: Counter[tuple[str, str]] = Counter()
    for ref in grefs:
        (sentence,) = ref["sentences"]
        targets = {number % 10 for number in ref["ann_id"] if number >= 0}
        counts[ref["split"], sentence["kind"]] += 1
        assert sentence["kind"] == GROUP_KINDS.get(len(targets), "several")
        assert ref["no_target"] == (ref["ann_id"] == [-1]) == (not targets)
        entries = instances.loadAnns([number for number in ref["ann_id"] if number >= 0])
        assert {entry["image_id"] for entry in entries} <= {ref["image_id"]}
        assert ref["category_id"] == ([entry["category_id"] for entry in entries] or [-1])
        if len(targets) == 1:
            continue  # one of the expressions judged above
        name = sentence["sent"].removeprefix("the ")
        if targets:
            quantifier, name = name.split(" ", 1)
            assert quantifier == "all" or NUMBERS[quantifier] == len(targets)
            name = re.sub(r"(cross)es$|(\w)s$", r"\1\2", name)
        assert called(name, scene_of(ref)) == targets
        assert name.split()[-1] in (*SHAPES, "shape")
    assert {split for split, _ in counts} == {"val", "test"}
    assert all(counts[split, kind] >= IMAGES[split] for split in ("val", "test") for kind in ("none", "one", "several"))
    assert len({ref["ref_id"] for ref in grefs}) == len(grefs)


def test_single_targets_are_said_as_in_refs(refs: list[dict[str, Any]], grefs: list[dict[str, Any]]) -> None:
    said = {(ref["ann_id"], sentence["sent"]) for ref in refs for sentence in ref["sentences"]}
    one = {(ref["ann_id"][0], ref["sentences"][0]["sent"]) for ref in grefs if ref["sentences"][0]["kind"] == "one"}
    assert one <= said


def test_what_is_absent_names_no_unseen_pair(grefs: list[dict[str, Any]]) -> None:
    """A pair that no picture outside its own split shows is not asked for outside it either."""
    scenes = (make_toy_scene("test_unseen_pairs", index) for index in range(1, 200))
    shown = {(shape.colour, shape.shape) for scene in scenes for shape in scene.objects}
    absent = [ref["sentences"][0]["tokens"][-2:] for ref in grefs if ref["no_target"]]
    asked = {(word, shape) for word, shape in absent if word in COLOURS}
    assert asked
    assert not asked & shown


def ring(colour: str, x: float, size: str = "large") -> Shape:
    return Shape("ring", colour, size, "plain", x, 60.0, 30.0 if size == "large" else 10.0, 0.0)


def test_hidden_objects_are_not_meant_but_still_taken_into_account() -> None:
    """A large square hides most of one red ring; the other must be told apart from it all the same."""
    square = Shape("square", "blue", "large", "plain", 40.0, 60.0, 25.0, 0.0)
    objects = (ring("red", 40.0), square, ring("red", 125.0, "small"))
    scene = Scene(160, 120, "grey", "smooth", objects, (0, 0, 0))
    masks = render(scene)[1]
    visible = visible_shares(scene, masks)
    alone = [render(Scene(160, 120, "grey", "smooth", (one,), (0, 0, 0)))[1][0].sum() for one in objects]
    np.testing.assert_allclose(visible, masks.sum((1, 2)) / alone, atol=0.02)
    assert visible[0] < 0.6
    assert visible[1:] == [1, 1]
    hidden, front, other = refer(scene, visible)
    assert not hidden
    assert front
    assert other
    texts = {expression.text.removeprefix("the ") for expression in other}
    assert not texts & {"ring", "red ring", "red shape"}
    groups = refer_to_any_number(scene, visible, [hidden, front, other])
    assert all(0 not in group.targets for group in groups)


def test_more_images_of_one_split_are_joined_to_the_others(tmp_path: Path) -> None:
    few = {"train": 3, "val": 2, "test": 2, "test_unseen_pairs": 2}
    write(tmp_path / "grown", few)
    grown, fresh = write(tmp_path / "grown", few | {"val": 4}), write(tmp_path / "fresh", few | {"val": 4})
    for name in ("toy/refs(unc).p", "toy/instances.json", "toy_grefcoco/grefs(unc).json"):
        assert (grown / name).read_bytes() == (fresh / name).read_bytes()
