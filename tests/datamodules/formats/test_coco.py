"""The COCO reader on real annotations, and every way an entry can be bad."""

import json
from pathlib import Path
from typing import Any

import pytest
from pycocotools import mask as coco_mask

from datamodules.formats.coco import load_coco, read_captions, read_instances
from datamodules.formats.records import BadRecord, FormatError

IMAGES = [{"id": 1, "file_name": "1.jpg", "width": 8, "height": 6}]
CATEGORIES = [{"id": 18, "name": "dog"}]
DOG = {
    "id": 5,
    "image_id": 1,
    "category_id": 18,
    "bbox": [1.5, 1, 3, 4],
    "segmentation": [[1, 1, 4, 1, 4, 4]],
    "iscrowd": 0,
}


def write(path: Path, annotations: list[Any], **changes: Any) -> Path:
    whole = {"images": IMAGES, "categories": CATEGORIES, "annotations": annotations, **changes}
    path.write_text(json.dumps(whole))
    return path


def test_fields_of_an_instance(tmp_path: Path) -> None:
    path = write(tmp_path / "i.json", [{**DOG, "attributes": ["brown", "small"], "iscrowd": 1}])
    [(image, dog)] = read_instances(path)
    assert (image.image_id, image.file_name, image.width, image.height) == ("1", "1.jpg", 8, 6)
    assert (dog.instance_id, dog.category, dog.box) == ("5", "dog", (1.5, 1, 4.5, 5))
    assert (dog.attributes, dog.crowd, dog.mask["size"]) == (("brown", "small"), True, [6, 8])


BAD = {
    "its image is not in 'images'": {**DOG, "image_id": 2},
    "its category is not in 'categories'": {**DOG, "category_id": 1},
    "zero-area box": {**DOG, "bbox": [1, 1, 0, 4]},
    "'bbox' does not hold four numbers": {**DOG, "bbox": [1, 1, 4]},
    "'bbox' is not a finite number": {**DOG, "bbox": [1, 1, 4, float("nan")]},
    "a polygon of fewer than three points": {**DOG, "segmentation": [[1, 1, 4, 4]]},
    "run lengths of another size than the image": {**DOG, "segmentation": {"size": [8, 6], "counts": [0, 48]}},
    "'attributes' is not a list of strings": {**DOG, "attributes": [1]},
    "missing key 'segmentation'": {k: v for k, v in DOG.items() if k != "segmentation"},
    "missing key 'image_id'": {"id": 5},
}


@pytest.mark.parametrize("reason", BAD)
def test_a_bad_instance_is_named_and_the_next_is_read(tmp_path: Path, reason: str) -> None:
    path = write(tmp_path / "i.json", [BAD[reason], {**DOG, "id": 6}])
    found = sorted(read_instances(path), key=lambda item: not isinstance(item, BadRecord))
    assert found[0] == BadRecord(f"{path}: annotation 5", reason)
    assert found[1][1].instance_id == "6"


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        ({"id": 2, "file_name": "2.jpg", "width": 0, "height": 4}, "an impossible image size"),
        ({"id": 2, "file_name": "2.jpg", "width": 10**9, "height": 4}, "an impossible image size"),
        ({"id": 2, "file_name": "../2.jpg", "width": 4, "height": 4}, "'file_name' leaves the image folder"),
        ({"id": 2, "width": 4, "height": 4}, "missing key 'file_name'"),
    ],
)
def test_a_bad_image_entry_is_named(tmp_path: Path, image: dict[str, Any], reason: str) -> None:
    path = write(tmp_path / "i.json", [DOG], images=[*IMAGES, image])
    assert BadRecord(f"{path}: image 2", reason) in list(read_instances(path))


def test_a_second_image_of_one_id_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "i.json", [], images=IMAGES * 2)
    assert load_coco(path).bad_entries == [BadRecord(f"{path}: image 1", "a second image with this id")]


def test_captions_lose_the_blanks_at_their_ends_and_empty_ones_are_named(tmp_path: Path) -> None:
    entries = [{"id": 1, "image_id": 1, "caption": " A dog.\n"}, {"id": 2, "image_id": 1, "caption": " "}, 7]
    path = write(tmp_path / "c.json", entries)
    found = list(read_captions(path))
    assert [item[1] for item in found if not isinstance(item, BadRecord)] == ["A dog."]
    assert BadRecord(f"{path}: annotation 2", "empty caption") in found
    assert BadRecord(f"{path}: annotation without id", "not a JSON object where one is expected") in found


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"images": [], "annotations": {}}', "\xff"])
def test_a_file_of_another_format_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(FormatError, match=str(path)):
        load_coco(path)


@pytest.mark.shared
def test_real_masks_have_the_area_that_the_annotators_drew(shared: Path) -> None:
    path = shared / "samples/coco/instances.json"
    raw = {str(entry["id"]): entry for entry in json.loads(path.read_text())["annotations"]}
    found = [item[1] for item in read_instances(path) if not isinstance(item, BadRecord)]
    assert len(found) == len(raw) == 531
    for instance in found:
        area, entry = float(coco_mask.area(instance.mask)), raw[instance.instance_id]
        if instance.crowd:  # its stated area is that of something else; every second run is of ones
            assert area == sum(entry["segmentation"]["counts"][1::2])
        else:  # a mask of whole pixels may differ from the outline's area by part of its border
            assert area == pytest.approx(entry["area"], rel=0.05, abs=20)


@pytest.mark.shared
def test_real_captions_are_read_whole(shared: Path) -> None:
    path = shared / "samples/coco/captions.json"
    raw = [entry["caption"].strip() for entry in json.loads(path.read_text())["annotations"]]
    assert sorted(caption for _, caption in read_captions(path)) == sorted(raw)
