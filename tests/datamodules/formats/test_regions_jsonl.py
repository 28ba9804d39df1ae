"""The reader of regions as JSON lines."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from datamodules.formats.records import FormatError
from datamodules.formats.regions import RegionSplit, RegionSplits
from datamodules.formats.regions_jsonl import read_regions_jsonl

DOCUMENT = Path(__file__).parents[3] / "docs/data.md"
GOOD = {"image": "a/3.jpg", "phrase": "a mug", "box": [1, 2.5, 3, 4]}


def read(path: Path, *records: Any, name: str | None = None) -> dict[str, RegionSplit]:
    path.write_text("".join(f"{one if isinstance(one, str) else json.dumps(one)}\n" for one in records))
    splits = RegionSplits(name)
    read_regions_jsonl(path, splits)
    return {split.name: split for split in splits.all()}


def said(split: RegionSplit) -> list[tuple[str, str, tuple[float, ...]]]:
    return [(r.region_id, r.phrase, r.box) for image in split.images.values() for r in image.regions]


def test_all_keys(tmp_path: Path) -> None:
    several = [{"box": [0, 0, 5, 5], "phrase": "a plate"}, {"box": [1, 1, 2, 2], "phrase": "a crumb", "id": "crumb"}]
    splits = read(
        tmp_path / "my mugs_train.jsonl",
        GOOD,
        {**GOOD, "id": 12},
        "",
        {"image": "a/3.jpg", "regions": several, "width": 40, "height": 30},
        {"image": "a/4.jpg", "regions": [], "split": "val"},
    )
    assert list(splits) == ["my_mugs_train", "my_mugs_val"]
    [image] = splits["my_mugs_train"].images.values()
    assert (image.image_id, image.file_name, image.size) == ("a/3.jpg", "a/3.jpg", (40, 30))
    assert said(splits["my_mugs_train"]) == [
        ("1", "a mug", (1, 2.5, 3, 4)),
        ("12", "a mug", (1, 2.5, 3, 4)),
        ("4_0", "a plate", (0, 0, 5, 5)),
        ("crumb", "a crumb", (1, 1, 2, 2)),
    ]
    [empty] = splits["my_mugs_val"].images.values()
    assert (empty.image_id, empty.regions) == ("a/4.jpg", [])


BAD: dict[str, tuple[Any, str]] = {
    "broken JSON": ('{"image": ', "broken JSON"),
    "a list": ([], "not a JSON object where one is expected"),
    "no image": ({"phrase": "a", "box": [1, 2, 3, 4]}, "missing key 'image'"),
    "a path out of the folder": ({**GOOD, "image": "../3.jpg"}, "'image_id' leaves the image folder"),
    "no box": ({"image": "a.jpg", "phrase": "a"}, "missing key 'box'"),
    "no phrase": ({"image": "a.jpg", "box": [1, 2, 3, 4]}, "missing key 'phrase'"),
    "three numbers": ({**GOOD, "box": [1, 2, 3]}, "'box' does not hold four numbers"),
    "turned round": ({**GOOD, "box": [3, 4, 1, 2]}, "x1 < x0 or y1 < y0: is the box x y width height?"),
    "no area": ({**GOOD, "box": [3, 4, 3, 5]}, "zero-area box"),
    "regions of another kind": ({"image": "a.jpg", "regions": "all"}, "'regions' is not a list"),
    "a region of another kind": ({"image": "a.jpg", "regions": [5]}, "not a JSON object where one is expected"),
    "half a size": ({**GOOD, "width": 5}, "missing key 'height'"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_line_is_named_and_the_rest_read(tmp_path: Path, name: str) -> None:
    bad, reason = BAD[name]
    [split] = read(tmp_path / "x_train.jsonl", bad, {**GOOD, "image": "4.jpg"}).values()
    assert [(found.where, found.reason) for found in split.bad] == [(f"{tmp_path / 'x_train.jsonl'}:1", reason)]
    assert [phrase for _, phrase, _ in said(split)] == ["a mug"]


def test_a_file_without_a_usable_line_or_split_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"x_train\.jsonl: empty"):
        read(tmp_path / "x_train.jsonl")
    with pytest.raises(FormatError, match=r"x_train\.jsonl:2: broken JSON"):
        read(tmp_path / "x_train.jsonl", "", "{")
    with pytest.raises(FormatError, match=r"mugs\.jsonl:1: neither the line nor the file's name says the split"):
        read(tmp_path / "mugs.jsonl", GOOD)
    assert list(read(tmp_path / "mugs.jsonl", GOOD, name="mugs_test")) == ["mugs_test"]


def test_the_documented_example_is_read_whole(tmp_path: Path) -> None:
    _, example = re.findall(r"```jsonl\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    lines = example.splitlines()
    assert 10 <= len(lines) <= 20
    splits = read(tmp_path / "kitchen.jsonl", *lines)
    assert set(splits) == {"kitchen_train", "kitchen_val"}
    assert not any(split.bad for split in splits.values())
    written = [r for line in map(json.loads, lines) for r in line.get("regions", [line])]
    assert sum(len(said(split)) for split in splits.values()) == len(written)
    assert any(not image.regions for image in splits["kitchen_val"].images.values())


def test_a_line_without_a_split_is_named_where_others_have_one(tmp_path: Path) -> None:
    [split] = read(tmp_path / "mugs.jsonl", GOOD, {**GOOD, "image": "4.jpg", "split": "val"}).values()
    assert split.name == "mugs_val"
    assert [one.image_id for one in split.images.values()] == ["4.jpg"]
    [bad] = split.bad
    assert bad.where == f"{tmp_path}/mugs.jsonl:1"
    assert bad.reason.startswith("neither the line nor the file's name says the split")
