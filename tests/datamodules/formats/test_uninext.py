"""The reader of the files of SeqTR and UNINEXT."""

import json
from pathlib import Path
from typing import Any

import pytest

from datamodules.formats.referring import ReferringSplit, ReferringSplits
from datamodules.formats.uninext import is_uninext, read_uninext

Json = dict[str, Any]


def entry(image: Any, *said: Any, **changes: Any) -> Json:
    box = {"image_id": image, "width": 40, "height": 30, "bbox": [1, 2, 3, 4], "category_id": 1}
    return {**box, "expressions": list(said), **changes}


def read(path: str, whole: dict[str, list[Any]], name: str | None = None) -> dict[str, ReferringSplit]:
    splits = ReferringSplits(name)
    assert is_uninext(json.loads(json.dumps(whole)))
    read_uninext(Path(path), whole, splits)
    return {split.name: split for split in splits.all()}


def test_objects_of_one_image_are_gathered() -> None:
    whole = {
        "train": [entry(7, "a", "b"), entry(8, "c"), entry(7, "d", bbox=[5, 5, 2, 2]), entry(7, "e")],
        "testA": [entry(9, "f")],
    }
    splits = read("refcocog-umd/instances.json", whole)
    assert list(splits) == ["refcocog_umd_train", "refcocog_umd_testA"]
    image = splits["refcocog_umd_train"].images["coco/7"]
    assert [(one.expression_id, one.text, one.targets) for one in image.expressions] == [
        ("0", "a", ("0",)),
        ("1", "b", ("0",)),
        ("3", "d", ("1",)),
        ("4", "e", ("0",)),
    ]
    assert image.objects["0"].box == (1, 2, 4, 6)
    assert (len(splits["refcocog_umd_train"].refs), splits["refcocog_umd_train"].sentences) == (4, 5)


def test_photos_of_the_mixed_set_and_of_flickr() -> None:
    whole = {"train": [entry(7, "a", data_source="coco"), entry("7", "b", data_source="vg")]}
    splits = read("mixed/instances.json", whole)
    assert {name: list(split.images) for name, split in splits.items()} == {
        "mixed_coco_train": ["coco/7"],
        "mixed_vg_train": ["vg/7"],
    }
    [split] = read("flickr30k/instances.json", {"train": [entry(1000, "a", data_source="flickr")]}).values()
    assert (split.name, list(split.images)) == ("flickr_train", ["flickr/1000"])


@pytest.mark.parametrize(
    ("bad", "count"),
    [
        (entry(1, "a", "b", bbox=[0, 0, 0, 1]), 2),
        (entry(1, "a", bbox="all"), 1),
        (entry("../1", "a"), 1),
        (entry(1, "a", width=0), 1),
        (entry(1, 5), 1),
        ({"expressions": "a"}, 1),
        ([], 1),
    ],
)
def test_a_bad_entry_is_named_for_each_of_its_expressions(bad: Any, count: int) -> None:
    [split] = read("x/instances.json", {"val": [bad, entry(2, "good")]}).values()
    assert [one.where for one in split.bad] == ["x/instances.json: val 0"] * count
    assert [one.text for image in split.images.values() for one in image.expressions] == ["good"]


@pytest.mark.parametrize("whole", [[], {}, {"images": [], "annotations": []}, {"a": 5}, None])
def test_other_files_are_not_of_this_form(whole: Any) -> None:
    assert not is_uninext(whole)
