"""The reader of regions in COCO's form."""

from pathlib import Path
from typing import Any

import pytest

from datamodules.formats.records import FormatError
from datamodules.formats.regions import RegionSplit, RegionSplits
from datamodules.formats.regions_coco import read_regions_coco
from tests.datamodules.region_data import write

IMAGES = [{"id": i, "file_name": f"{i}.jpg", "width": 40, "height": 30} for i in (1, 2)]


def annotation(number: int, image: int = 1, **changes: Any) -> dict[str, Any]:
    return {"id": number, "image_id": image, "bbox": [5, 6, 20, 10], "caption": f"thing {number}", **changes}


def read(path: Path, annotations: list[Any], name: str | None = None) -> dict[str, RegionSplit]:
    splits = RegionSplits(name)
    read_regions_coco(write(path, {"images": IMAGES, "annotations": annotations}), splits)
    return {split.name: split for split in splits.all()}


def test_images_and_their_regions_are_read(tmp_path: Path) -> None:
    [split] = read(tmp_path / "vg_test.json", [annotation(7), annotation(8), annotation(7)]).values()
    one, none = split.images.values()
    assert (one.image_id, one.file_name, one.size, one.picture) == ("1", "1.jpg", (40, 30), "vg/1")
    assert [(r.region_id, r.box, r.phrase) for r in one.regions] == [
        ("7", (5, 6, 25, 16), "thing 7"),
        ("8", (5, 6, 25, 16), "thing 8"),
        ("7-2", (5, 6, 25, 16), "thing 7"),
    ]
    assert (none.image_id, none.regions) == ("2", [])


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("vg/train.json", "vg_train"),
        ("vg/annotations/test.json", "vg_test"),
        ("grit/vg_test.json", "vg_test"),
        ("my mugs/val2.json", "my_mugs_val2"),
    ],
)
def test_the_split_is_named_by_file_or_folder(tmp_path: Path, file: str, expected: str) -> None:
    assert list(read(tmp_path / file, [])) == [expected]


def test_a_name_without_a_split_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"mine\.json: neither its records nor its name say the split"):
        read(tmp_path / "mine.json", [])
    assert list(read(tmp_path / "mine.json", [], "mine_val")) == ["mine_val"]


BAD: dict[str, tuple[Any, str]] = {
    "no caption": ({**annotation(3), "caption": None}, "'caption' is not a string"),
    "three numbers": (annotation(3, bbox=[1, 2, 3]), "'bbox' does not hold four numbers"),
    "no area": (annotation(3, bbox=[1, 2, 3, 0]), "zero-area box"),
    "no image": (annotation(3, image=9), "its image is not in 'images'"),
    "no box": ({"id": 3, "image_id": 1, "caption": "a"}, "missing key 'bbox'"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_annotation_is_named_and_the_rest_read(tmp_path: Path, name: str) -> None:
    bad, reason = BAD[name]
    path = tmp_path / "x_val.json"
    [split] = read(path, [bad, annotation(4)]).values()
    assert [(found.where, found.reason) for found in split.bad] == [(f"{path}: annotation 3", reason)]
    assert [r.phrase for image in split.images.values() for r in image.regions] == ["thing 4"]
