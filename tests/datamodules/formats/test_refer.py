"""The reader of the `refer` distribution, on small folders and on the official validation and test splits."""

from pathlib import Path
from typing import Any

import pytest

from datamodules.formats.records import FormatError
from datamodules.formats.refer import read_refs, refs_files
from datamodules.formats.referring import ReferringSplit, ReferringSplits
from tests.datamodules.referring_data import annotation, image, published_refs, ref, write_published, write_refer


def read(folder: Path) -> dict[str, ReferringSplit]:
    splits = ReferringSplits()
    read_refs(refs_files(folder), splits)
    return {split.name: split for split in splits.all()}


def test_a_ref_becomes_an_object_and_its_expressions(tmp_path: Path) -> None:
    sentences = [{"sent_id": 7, "sent": "left dog", "raw": "Left dog!", "kind": "place"}, {"sent_id": 8, "raw": "Dog"}]
    folder = write_refer(tmp_path / "refcoco+", [ref(3, sentences=sentences)], [annotation(3)], [image(1)])
    [split] = read(folder).values()
    assert (split.name, split.part) == ("refcocoplus_unc_val", "val")
    assert split.files == [folder / "refs(unc).p", folder / "instances.json"]
    [found] = split.images.values()
    assert (found.image_id, found.size, found.picture) == ("1", (40, 30), "coco/1")
    assert found.file_name == "COCO_train2014_000000000001.jpg"
    assert found.objects["3"].box == (3, 5, 13, 13)
    said = [(one.expression_id, one.text, one.kind, one.targets) for one in found.expressions]
    assert said == [("7", "left dog", "place", ("3",)), ("8", "Dog", "", ("3",))]


def test_splits_and_partitions_lie_apart(tmp_path: Path) -> None:
    images, annotations = [image(1), image(2)], [annotation(1), annotation(2, image=2)]
    refs = [ref(1, "a", split="train"), ref(2, "b", image=2, split="test")]
    folder = write_refer(tmp_path / "refcocog", refs, annotations, images, "refs(umd).p")
    write_refer(folder, [ref(1, "a"), ref(2, "b", image=2)], annotations, images, "refs(google).p")
    found = {name: list(split.images) for name, split in read(folder).items()}
    assert found == {
        "refcocog_google_val": ["coco/1", "coco/2"],
        "refcocog_umd_train": ["coco/1"],
        "refcocog_umd_test": ["coco/2"],
    }


def test_an_expression_for_several_objects_and_one_for_nothing(tmp_path: Path) -> None:
    refs = [
        ref(1, "both", ann_id=[1, 2, 1]),
        ref(2, "no one", ann_id=[-1], no_target=True),
        ref(3, "the crowd", ann_id=[3]),
    ]
    annotations = [annotation(1), annotation(2), annotation(3, iscrowd=1)]
    folder = write_refer(tmp_path / "grefcoco", refs, annotations, [image(1)], "grefs(unc).json")
    [split] = read(folder).values()
    assert split.name == "grefcoco_unc_val"
    [found] = split.images.values()
    assert [one.targets for one in found.expressions] == [("1", "2"), (), ("3",)]
    assert not found.objects["3"].crowd  # a crowd is what this data set may well mean


BAD: dict[str, tuple[Any, str, int]] = {
    "no annotation": (ref(9, "a", "b"), "its annotation is not in 'instances.json'", 2),
    "annotation -1": (ref(1, "a", ann_id=-1), "its annotation is not in 'instances.json'", 1),
    "no image": (ref(1, "a", "b", image=9), "its image is not in 'instances.json'", 2),
    "annotation of another image": (ref(1, "a", image=2), "its annotation is of another image", 1),
    "no sentences": (ref(1), "a ref without sentences", 1),
    "sentences of another kind": (ref(1, sentences="left"), "a ref without sentences", 1),
    "a sentence that is none": (ref(1, sentences=[5]), "not a JSON object where one is expected", 1),
    "a sentence without words": (ref(1, sentences=[{"sent_id": 1}]), "missing key 'raw'", 1),
    "no area": (ref(2, "a"), "zero-area box", 1),
    "no number": (ref(3, "a"), "'bbox' is not a finite number", 1),
    "no split": ({"ref_id": 1}, "missing key 'split'", 1),
    "not a ref": (["ref"], "not a JSON object where one is expected", 1),
    "an id that is none": (ref(1, "a", ann_id={"x": 1}), "'ann_id' is neither a string nor a whole number", 1),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_ref_is_named_for_each_of_its_sentences(tmp_path: Path, name: str) -> None:
    bad, reason, count = BAD[name]
    annotations = [annotation(1), annotation(2, bbox=[1, 1, 0, 5]), annotation(3, bbox=[1, 1, float("inf"), 5])]
    folder = write_refer(tmp_path / "refcoco", [bad, ref(1, "good")], annotations, [image(1), image(2)])
    splits = read(folder)
    found = [bad for split in splits.values() for bad in split.bad]
    assert [one.reason for one in found] == [reason] * count
    assert found[0].where.startswith(f"{folder / 'refs(unc).p'}: ref ")
    assert [one.text for one in splits["refcoco_unc_val"].images["coco/1"].expressions] == ["good"]


def test_an_id_that_occurs_again_is_told_apart(tmp_path: Path) -> None:
    refs = [ref(1, "a", sentences=[{"sent_id": 5, "sent": said} for said in ("a", "b", "c")])]
    [split] = read(write_refer(tmp_path / "toy", refs, [annotation(1)], [image(1)])).values()
    assert [one.expression_id for found in split.images.values() for one in found.expressions] == ["5", "5-2", "5-3"]


def test_files_of_another_form_are_named(tmp_path: Path) -> None:
    folder = write_refer(tmp_path / "refcoco", [], [], [])
    (folder / "refs(unc).p").write_bytes(b"\x80\x02}.")
    with pytest.raises(FormatError, match=r"refs\(unc\)\.p: not a list of refs"):
        read(folder)
    (folder / "instances.json").unlink()
    with pytest.raises(FormatError, match=r"refs\(unc\)\.p: no instances.json beside it"):
        read(folder)


# images, refs and sentences of the official splits
PUBLISHED = {
    ("refcoco", "unc", "val"): (1500, 3811, 10834),
    ("refcoco", "unc", "testA"): (750, 1975, 5657),
    ("refcoco", "unc", "testB"): (750, 1810, 5095),
    ("refcoco+", "unc", "val"): (1500, 3805, 10758),
    ("refcoco+", "unc", "testA"): (750, 1975, 5726),
    ("refcoco+", "unc", "testB"): (750, 1798, 4889),
    ("refcocog", "umd", "val"): (1300, 2573, 4896),
}


@pytest.mark.shared
@pytest.mark.parametrize("key", PUBLISHED, ids="_".join)
def test_official_splits_are_read_whole(shared: Path, tmp_path: Path, key: tuple[str, str, str]) -> None:
    name, partition, part = key
    listed = published_refs(shared / f"samples/refcoco/{name}/{partition}_{part}.json.gz")
    folder = write_published(tmp_path / name, f"refs({partition}).p", listed)
    [split] = read(folder).values()
    assert split.name == f"{name.replace('+', 'plus')}_{partition}_{part}"
    assert (len(split.images), len(split.refs), split.sentences) == PUBLISHED[key]
    assert not split.bad
    said = {
        (int(found.image_id), int(one.targets[0]), found.objects[one.targets[0]].box, one.text)
        for found in split.images.values()
        for one in found.expressions
    }
    for entry in listed:
        x, y, width, height = entry["bbox"]
        for sentence in entry["sentences"]:
            assert (entry["image_id"], entry["ann_id"], (x, y, x + width, y + height), sentence) in said
