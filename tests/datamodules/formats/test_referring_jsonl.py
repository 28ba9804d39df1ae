"""The reader of JSON lines."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from datamodules.formats.records import FormatError
from datamodules.formats.referring import ReferringSplit, ReferringSplits
from datamodules.formats.referring_jsonl import read_referring_jsonl

DOCUMENT = Path(__file__).parents[3] / "docs/data.md"


def read(path: Path, *records: Any, name: str | None = None) -> dict[str, ReferringSplit]:
    path.write_text("".join(f"{one if isinstance(one, str) else json.dumps(one)}\n" for one in records))
    splits = ReferringSplits(name)
    read_referring_jsonl(path, splits)
    return {split.name: split for split in splits.all()}


GOOD = {"image": "a/3.jpg", "expression": "the mug", "box": [1, 2.5, 3, 4]}
MASK = {"size": [30, 40], "counts": [0, 1200]}


def test_all_keys(tmp_path: Path) -> None:
    splits = read(
        tmp_path / "my mugs_train.jsonl",
        GOOD,
        {**GOOD, "expression": "it", "mask": None},
        "",
        {**GOOD, "boxes": [[1, 2.5, 3, 4], [0, 0, 5, 5]], "masks": [None, MASK], "id": "x", "kind": "several"},
        {**GOOD, "boxes": [], "split": "val", "width": 40, "height": 30, "id": 12},
    )
    assert list(splits) == ["my_mugs_train", "my_mugs_val"]
    [image] = splits["my_mugs_train"].images.values()
    assert (image.image_id, image.file_name, image.size) == ("a/3.jpg", "a/3.jpg", None)
    assert [(one.box, one.segmentation) for one in image.objects.values()] == [
        ((1, 2.5, 3, 4), None),
        ((0, 0, 5, 5), MASK),
    ]
    assert [(one.expression_id, one.targets, one.kind) for one in image.expressions] == [
        ("1", ("0",), ""),
        ("2", ("0",), ""),
        ("x", ("0", "1"), "several"),
    ]
    [image] = splits["my_mugs_val"].images.values()
    assert (image.size, image.expressions[0].targets, image.expressions[0].expression_id) == ((40, 30), (), "12")


BAD: dict[str, Any] = {
    "broken JSON": '{"image": ',
    "not UTF-8": "\\ud800",
    "a list": [],
    "no image": {"expression": "a", "box": [1, 2, 3, 4]},
    "a path out of the folder": {**GOOD, "image": "../3.jpg"},
    "an absolute path": {**GOOD, "image": "/etc/passwd"},
    "no box": {"image": "a.jpg", "expression": "a"},
    "three numbers": {**GOOD, "box": [1, 2, 3]},
    "turned round": {**GOOD, "box": [3, 4, 1, 2]},
    "not finite": '{"image": "a.jpg", "expression": "a", "box": [1, 2, NaN, 4]}',
    "no words": {**GOOD, "expression": 5},
    "a lone surrogate": '{"image": "a.jpg", "expression": "\\ud800", "box": [1, 2, 3, 4]}',
    "too few masks": {**GOOD, "boxes": [[1, 2, 3, 4]], "masks": []},
    "half a size": {**GOOD, "width": 5},
    "a size beyond all": {**GOOD, "width": 10**9, "height": 5},
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_line_is_named_and_the_rest_read(tmp_path: Path, name: str) -> None:
    [split] = read(tmp_path / "x_train.jsonl", BAD[name], {**GOOD, "image": "4.jpg"}).values()
    assert [bad.where for bad in split.bad] == [f"{tmp_path / 'x_train.jsonl'}:1"]
    assert [one.text for image in split.images.values() for one in image.expressions] == ["the mug"]


def test_a_file_without_a_usable_line_or_split_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"x_train\.jsonl: empty"):
        read(tmp_path / "x_train.jsonl")
    with pytest.raises(FormatError, match=r"x_train\.jsonl:1: broken JSON"):
        read(tmp_path / "x_train.jsonl", "{", "}")
    with pytest.raises(FormatError, match=r"mugs\.jsonl:1: neither the line nor the file's name says the split"):
        read(tmp_path / "mugs.jsonl", GOOD)
    assert list(read(tmp_path / "mugs.jsonl", GOOD, name="mugs_test")) == ["mugs_test"]
    with pytest.raises(FormatError, match=r"x_train\.jsonl: all boxes lie within \[0, 1\]: give pixels"):
        read(tmp_path / "x_train.jsonl", {**GOOD, "box": [0, 0.2, 1, 1]})


def test_the_documented_example_is_read_whole(tmp_path: Path) -> None:
    example, _ = re.findall(r"```jsonl\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    lines = example.splitlines()
    assert len(lines) == 20
    splits = read(tmp_path / "kitchen.jsonl", *lines)
    assert set(splits) == {"kitchen_train", "kitchen_val"}
    assert not any(split.bad for split in splits.values())
    said = [one for split in splits.values() for image in split.images.values() for one in image.expressions]
    assert len(said) == 20
    assert {len(one.targets) for one in said} == {0, 1, 2}
    masks = [
        found.segmentation for split in splits.values() for i in split.images.values() for found in i.objects.values()
    ]
    assert {type(mask) for mask in masks} == {type(None), dict, list}


def test_a_line_without_a_split_is_named_where_others_have_one(tmp_path: Path) -> None:
    [split] = read(tmp_path / "mugs.jsonl", {**GOOD, "image": "4.jpg", "split": "val"}, GOOD).values()
    assert [one.image_id for one in split.images.values()] == ["4.jpg"]
    [bad] = split.bad
    assert bad.where == f"{tmp_path}/mugs.jsonl:2"
    assert bad.reason.startswith("neither the line nor the file's name says the split")
