"""The reader of Visual Genome's own files."""

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from datamodules.formats.records import FormatError
from datamodules.formats.regions import RegionSplit, RegionSplits
from datamodules.formats.visual_genome import (
    ImageData,
    read_image_data,
    read_region_descriptions,
    read_splits,
)
from tests.datamodules.region_data import described, image_data, region, write


def read(path: Path, content: Any, name: str | None = None, **known: Any) -> dict[str, RegionSplit]:
    splits = RegionSplits(name)
    read_region_descriptions(write(path, content), splits, **{"image_data": {}, **known})
    return {split.name: split for split in splits.all()}


def said(split: RegionSplit) -> dict[str, list[tuple[str, str, tuple[float, ...]]]]:
    return {
        image.image_id: [(one.region_id, one.phrase, one.box) for one in image.regions]
        for image in split.images.values()
    }


@pytest.mark.shared
def test_the_sample_is_read_whole(shared: Path) -> None:
    """Counted against the file's own text, and region by region against its objects."""
    folder = shared / "samples/visual_genome"
    path = folder / "region_descriptions_first100.json"
    known = read_image_data([folder / "image_data_first100.json"])
    splits = RegionSplits()
    assert read_region_descriptions(path, splits, known) == 0
    [split] = splits.all()
    assert (split.name, split.bad) == ("vg_train", [])
    assert len(split.images) == 100
    assert sum(len(image.regions) for image in split.images.values()) == path.read_text().count('"phrase"') == 7278
    expected = {
        str(entry["id"]): [
            (str(r["region_id"]), r["phrase"], (r["x"], r["y"], r["x"] + r["width"], r["y"] + r["height"]))
            for r in entry["regions"]
        ]
        for entry in json.loads(path.read_text())
    }
    assert said(split) == expected
    sizes = {
        str(one["image_id"]): (one["width"], one["height"])
        for one in json.loads((folder / "image_data_first100.json").read_text())
    }
    assert {image.image_id: image.size for image in split.images.values()} == sizes
    assert split.images["vg/1"].file_name == "VG_100K_2/1.jpg"


def test_the_list_of_splits_divides_the_images(tmp_path: Path) -> None:
    parts = read_splits(write(tmp_path / "densecap_splits.json", {"train": [1], "val": [2], "test": [4, 5]}))
    assert parts == {"1": "train", "2": "val", "4": "test", "5": "test"}
    path = write(tmp_path / "region_descriptions.json", [described(i, region(10 * i, "a")) for i in range(1, 5)])
    splits = RegionSplits()
    assert read_region_descriptions(path, splits, {}, parts) == 1
    assert {split.name: list(said(split)) for split in splits.all()} == {
        "vg_train": ["1"],
        "vg_val": ["2"],
        "vg_test": ["4"],
    }


@pytest.mark.parametrize(
    ("file", "name", "expected"),
    [
        ("region_descriptions.json", None, "vg_train"),
        ("region_descriptions_v1.json", None, "vg_train"),
        ("region_descriptions.json", "mine_val", "mine_val"),
        ("toy_test_unseen_pairs_region_descriptions.json", None, "toy_test_unseen_pairs"),
    ],
)
def test_the_name_of_the_split(tmp_path: Path, file: str, name: str | None, expected: str) -> None:
    assert list(read(tmp_path / file, [described(1)], name)) == [expected]


def test_a_name_without_a_split_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"my_region_descriptions\.json: neither its records nor its name say the"):
        read(tmp_path / "my_region_descriptions.json", [described(1)])


def test_the_first_version_of_the_format_and_gzip(tmp_path: Path) -> None:
    """Ids of regions and images stood under `id`."""
    old = {"id": 7, "image": 1, "phrase": "a", "x": 1, "y": 2, "width": 3, "height": 4}
    path = tmp_path / "region_descriptions.json.gz"
    path.write_bytes(gzip.compress(json.dumps([described(1, old)]).encode()))
    data = image_data(1)
    write(tmp_path / "image_data.json", [{"id": data.pop("image_id"), **data}])
    splits = RegionSplits()
    read_region_descriptions(path, splits, read_image_data([tmp_path / "image_data.json"]))
    [split] = splits.all()
    assert said(split) == {"1": [("7", "a", (1, 2, 4, 6))]}
    assert split.images["vg/1"].size == (40, 30)


def test_image_data(tmp_path: Path) -> None:
    path = write(tmp_path / "i.json", [image_data(1, folder="VG_100K_2"), image_data(2, 8, 9, coco_id=57870)])
    assert read_image_data([path, path]) == {
        "1": ImageData("VG_100K_2/1.jpg", (40, 30), None),
        "2": ImageData("VG_100K/2.jpg", (8, 9), "coco/57870"),
    }
    other = write(tmp_path / "other.json", [image_data(2)])
    with pytest.raises(FormatError, match=r"other\.json: entry 0: another image with this id"):
        read_image_data([path, other])


def test_an_image_without_regions_is_read(tmp_path: Path) -> None:
    [split] = read(tmp_path / "region_descriptions.json", [described(1), described(2, region(1, "a"))]).values()
    assert {image_id: len(found) for image_id, found in said(split).items()} == {"1": 0, "2": 1}


def test_ids_that_occur_again_are_made_unique(tmp_path: Path) -> None:
    entries = [described(1, region(7, "a"), region(7, "b")), described(2, region(7, "c")), described(1, region(8, "d"))]
    [split] = read(tmp_path / "region_descriptions.json", entries).values()
    ids = {image: [name for name, _, _ in found] for image, found in said(split).items()}
    assert ids == {"1": ["7", "7-2", "8"], "2": ["7-3"]}


BAD_REGIONS: dict[str, tuple[Any, str]] = {
    "not an object": (5, "not a JSON object where one is expected"),
    "no phrase": ({k: v for k, v in region(3, "").items() if k != "phrase"}, "missing key 'phrase'"),
    "no place": ({k: v for k, v in region(3, "").items() if k != "x"}, "missing key 'x'"),
    "no id": ({k: v for k, v in region(3, "").items() if k != "region_id"}, "missing key 'id'"),
    "a number": ({**region(3, ""), "phrase": 5}, "'phrase' is not a string"),
    "a lone surrogate": (region(3, "\ud800"), "'phrase' is not valid Unicode"),
    "no width": (region(3, "a", (5, 6, 0, 9)), "zero-area box"),
    "less than nothing": (region(3, "a", (5, 6, 4, -9)), "zero-area box"),
    "not finite": (region(3, "a", (5, float("nan"), 4, 9)), "'y' is not a finite number"),
    "words": ({**region(3, "a"), "x": "5"}, "'x' is not a number"),
}


@pytest.mark.parametrize("name", BAD_REGIONS)
def test_a_bad_region_is_named_and_the_rest_read(tmp_path: Path, name: str) -> None:
    bad, reason = BAD_REGIONS[name]
    path = tmp_path / "region_descriptions.json"
    [split] = read(path, [described(1, bad, region(4, "good"))]).values()
    [found] = split.bad
    assert found.reason == reason
    assert found.where.startswith(f"{path}: ")
    assert found.where.endswith(("region 3", "image 1: region number 0"))
    assert [phrase for _, phrase, _ in said(split)["1"]] == ["good"]


BAD_ENTRIES: dict[str, tuple[Any, str]] = {
    "not an object": ("1", "not a JSON object where one is expected"),
    "no id": ({"regions": []}, "missing key 'id'"),
    "no regions": ({"id": 1}, "missing key 'regions'"),
    "regions of another kind": ({"id": 1, "regions": {}}, "'regions' is not a list"),
    "out of the folder": (described("../1"), "'image_id' leaves the image folder"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", BAD_ENTRIES)
def test_a_bad_image_is_named(tmp_path: Path, name: str) -> None:
    bad, reason = BAD_ENTRIES[name]
    path = tmp_path / "region_descriptions.json"
    [split] = read(path, [described(2, region(4, "good")), bad]).values()
    assert [(found.where, found.reason) for found in split.bad] == [(f"{path}: entry 1", reason)]
    assert [image_id for image_id, found in said(split).items() if found] == ["2"]


FILES: dict[str, tuple[str, str]] = {
    "broken": ("[{", "broken JSON"),
    "an object": ('{"images": []}', "not a JSON list"),
    "empty": ("[]", "empty"),
    "image data": (json.dumps([image_data(1)]), "entry 0: missing key 'id': not Visual Genome's region descriptions"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_none_is_an_error(tmp_path: Path, name: str) -> None:
    content, message = FILES[name]
    path = tmp_path / "region_descriptions.json"
    with pytest.raises(FormatError) as raised:
        read(path, content)
    assert str(raised.value) == f"{path}: {message}"


def test_a_list_of_splits_of_other_images_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="none of its 1 images is in a split"):
        read(tmp_path / "region_descriptions.json", [described(1)], parts={"2": "train"})


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (described(1), "missing key 'url'"),
        (image_data(1, width=0), "an impossible image size"),
        ({"id": 1, **image_data(1), "url": "https://[/1.jpg"}, "'url' is not an address"),
        (7, "not a JSON object where one is expected"),
    ],
)
def test_bad_image_data_are_an_error(tmp_path: Path, entry: Any, reason: str) -> None:
    path = write(tmp_path / "image_data.json", [image_data(2), entry])
    with pytest.raises(FormatError) as raised:
        read_image_data([path])
    assert str(raised.value) == f"{path}: entry 1: {reason}: not Visual Genome's image data"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "not a JSON object"),
        ({"train": 5}, "train: 'train' is not a list"),
        ({"train": [1, [2]]}, "train: 'image id' is neither a string nor a whole number"),
        ({"train": [1, 2], "test": [2]}, "test: image 2 is in two splits"),
    ],
)
def test_a_bad_list_of_splits_is_an_error(tmp_path: Path, content: Any, message: str) -> None:
    path = write(tmp_path / "splits.json", content)
    with pytest.raises(FormatError) as raised:
        read_splits(path)
    assert str(raised.value) == f"{path}: {message}"


def test_two_thousand_regions_of_one_image(tmp_path: Path) -> None:
    regions = [region(i, f"region {i}") for i in range(2000)]
    [split] = read(tmp_path / "region_descriptions.json", [described(1, *regions)]).values()
    assert Counter(len(found) for found in said(split).values()) == {2000: 1}
