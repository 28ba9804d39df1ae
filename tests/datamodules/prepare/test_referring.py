"""Referring data as shards: what a sample holds, whatever form it comes from, and what is left out."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset as wds
from PIL import Image
from pycocotools import mask as coco_mask

from datamodules.formats.records import FormatError
from datamodules.prepare.command import main
from datamodules.prepare.referring_corpora import open_referring
from datamodules.prepare.report import Report
from tests.datamodules.referring_data import annotation, image, published_refs, ref, write_published, write_refer

Json = dict[str, Any]


def photos(folder: Path, *names: str, size: tuple[int, int] = (40, 30)) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (90, 20, 20)).save(folder / name)
    return folder


def prepare(annotations: Path, images: Path, out: Path, *more: str) -> int:
    command = ["referring", "--annotations", str(annotations), "--images", str(images), "--out", str(out)]
    return main([*command, "--workers", "1", *more])


def samples(folder: Path) -> Iterator[Json]:
    for sample in wds.WebDataset(str(folder / "shard-00000.tar"), shardshuffle=False):
        yield json.loads(sample["json"])


def report(folder: Path) -> Json:
    found: Json = json.loads((folder / "report.json").read_text())
    return found


COCO_PHOTO = "COCO_train2014_000000000001.jpg"


def test_a_sample_is_an_image_with_all_its_expressions(tmp_path: Path) -> None:
    photos(tmp_path / "photos", COCO_PHOTO)
    refs = [
        ref(1, "left", "the left one"),
        ref(2, "right"),
        ref(1, "it", ref_id=3, sentences=[{"sent_id": 9, "raw": " it "}]),
    ]
    write_refer(tmp_path / "refcoco", refs, [annotation(1), annotation(2, segmentation=None)], [image(1)])
    assert prepare(tmp_path / "refcoco", tmp_path / "photos", tmp_path / "out") == 0
    [sample] = samples(tmp_path / "out/refcoco_unc_val")
    mask = np.zeros((30, 40), np.uint8)
    mask[5:13, 1:11] = 1
    np.testing.assert_array_equal(coco_mask.decode(sample["objects"][0].pop("rle")), mask)
    assert sample == {
        "dataset_id": "refcoco_unc_val",
        "image_id": "1",
        "width": 40,
        "height": 30,
        "picture": "coco/1",
        "objects": [{"id": "1", "bbox": [1, 5, 11, 13]}, {"id": "2", "bbox": [2, 5, 12, 13], "rle": None}],
        "expressions": [
            {"id": "100", "text": "left", "targets": [0], "kind": ""},
            {"id": "101", "text": "the left one", "targets": [0], "kind": ""},
            {"id": "200", "text": "right", "targets": [1], "kind": ""},
            {"id": "9", "text": "it", "targets": [0], "kind": ""},
        ],
    }


def in_all_forms(folder: Path) -> dict[str, Path]:
    """One image with two objects and three expressions, in every form."""
    objects = [annotation(1), annotation(2)]
    said = [(0, "left"), (0, "one"), (1, "right")]
    write_refer(folder / "refcoco", [ref(1, "left", "one"), ref(2, "right")], objects, [image(1)])
    captions = [image(1, original_id=1, caption=text) | {"id": 10 + i} for i, (_, text) in enumerate(said)]
    boxes = [
        objects[which] | {"id": i, "image_id": 10 + i, "original_id": 1 + which} for i, (which, _) in enumerate(said)
    ]
    (folder / "refcoco_unc_val.json").write_text(json.dumps({"images": captions, "annotations": boxes}))
    size = {"width": 40, "height": 30}
    entries = [
        {"image_id": 1, **size, "bbox": one["bbox"], "mask": one["segmentation"], "expressions": words}
        for one, words in zip(objects, (["left", "one"], ["right"]), strict=True)
    ]
    (folder / "refcoco-unc").mkdir()
    (folder / "refcoco-unc/instances.json").write_text(json.dumps({"val": entries}))
    lines = [
        {"image": COCO_PHOTO, "expression": text, "box": [x, 5, x + 10, 13], "mask": objects[which]["segmentation"]}
        for which, text in said
        for x in [objects[which]["bbox"][0]]
    ]
    (folder / "refcoco_unc_val.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    names = ["refcoco", "refcoco_unc_val.json", "refcoco-unc/instances.json", "refcoco-unc", "refcoco_unc_val.jsonl"]
    return {name: folder / name for name in names}


def test_every_form_gives_the_same_sample(tmp_path: Path) -> None:
    photos(tmp_path / "photos", COCO_PHOTO)
    found = []
    for number, path in enumerate(in_all_forms(tmp_path).values()):
        out = tmp_path / f"out-{number}"
        assert prepare(path, tmp_path / "photos", out) == 0
        [sample] = samples(out / "refcoco_unc_val")
        for one in (*sample["objects"], *sample["expressions"]):
            one.pop("id")  # forms without ids count
        sample.pop("image_id")  # the path in JSON lines
        found.append(sample)
    assert len(found[0]["objects"]) == 2
    assert all(found[0]["objects"][i]["rle"]["size"] == [30, 40] for i in (0, 1))
    assert [one["targets"] for one in found[0]["expressions"]] == [[0], [0], [1]]
    assert all(one == found[0] for one in found[1:])


@pytest.mark.parametrize(
    "name",
    [
        COCO_PHOTO,
        f"train2014/{COCO_PHOTO}",
        f"val2014/{COCO_PHOTO}",
        "000000000001.jpg",
        "train2017/000000000001.jpg",
        "val2017/000000000001.jpg",
    ],
)
@pytest.mark.parametrize("written", [COCO_PHOTO, "COCO_train2014_000000000001_16.jpg", "000000000001.jpg"])
def test_photos_of_coco_are_found_in_every_layout(tmp_path: Path, name: str, written: str) -> None:
    photos(tmp_path / "photos", name)
    write_refer(tmp_path / "refcoco", [ref(1, "a")], [annotation(1)], [image(1, file_name=written)])
    assert prepare(tmp_path / "refcoco", tmp_path / "photos", tmp_path / "out") == 0
    assert next(samples(tmp_path / "out/refcoco_unc_val"))["picture"] == "coco/1"


@pytest.mark.parametrize(
    ("data_set", "source", "names"),
    [
        ("mixed", "vg", ["71.jpg", "VG_100K/71.jpg", "VG_100K_2/71.jpg"]),
        ("mixed", "coco", ["COCO_train2014_000000000071.jpg", "train2017/000000000071.jpg"]),
        ("flickr30k", None, ["71.jpg", "flickr30k-images/71.jpg"]),
    ],
)
def test_photos_of_other_collections_are_found(
    tmp_path: Path, data_set: str, source: str | None, names: list[str]
) -> None:
    entry = {"image_id": 71, "width": 40, "height": 30, "bbox": [1, 1, 5, 5], "expressions": ["a"]}
    (tmp_path / data_set).mkdir()
    content = {"train": [entry | ({"data_source": source} if source else {})]}
    (tmp_path / data_set / "instances.json").write_text(json.dumps(content))
    for number, name in enumerate(names):
        folder = photos(tmp_path / f"photos-{number}", name)
        assert prepare(tmp_path / data_set, folder, tmp_path / f"out-{number}") == 0


def test_boxes_are_clipped_and_sizes_looked_up(tmp_path: Path) -> None:
    photos(tmp_path / "photos", "a/1.png", size=(40, 30))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 40)).save(tmp_path / "photos/turned.jpg", exif=exif)
    lines = [
        {"image": name, "expression": "a", "box": [-3, 5, 60.5, 29.5], "mask": [[0, 5, 39, 5, 39, 29]]}
        for name in ("a/1.png", "turned.jpg")
    ]
    (tmp_path / "mine_train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert prepare(tmp_path / "mine_train.jsonl", tmp_path / "photos", tmp_path / "out") == 0
    for sample in samples(tmp_path / "out/mine_train"):
        [found] = sample["objects"]
        assert (found["bbox"], found["rle"]["size"]) == ([0, 5, 40, 29.5], [30, 40])


LEFT_OUT: dict[str, tuple[Json, Json, str]] = {
    "empty": ({"sentences": [{"sent_id": 1, "sent": "  \n"}]}, {}, "empty expression"),
    "no area": ({}, {"bbox": [5, 5, 0, 3]}, "zero-area box"),
    "outside": ({}, {"bbox": [41, 5, 10, 3]}, "a box outside the image"),
    "touching the edge": ({}, {"bbox": [-10, 5, 10, 3]}, "a box outside the image"),
    "crowd": ({}, {"iscrowd": 1}, "a crowd region"),
    "unwritable id": ({"ref_id": "\ud800", "ann_id": 99}, {}, "its annotation is not in 'instances.json'"),
    "no annotation": ({"ann_id": 99}, {}, "its annotation is not in 'instances.json'"),
    "no image": ({"image_id": 99}, {}, "its image is not in 'instances.json'"),
}


@pytest.mark.parametrize("name", LEFT_OUT)
def test_an_unusable_expression_is_counted_and_left_out(tmp_path: Path, name: str) -> None:
    of_ref, of_object, reason = LEFT_OUT[name]
    photos(tmp_path / "photos", COCO_PHOTO)
    refs = [ref(1, "bad", **of_ref), ref(2, "good")]
    write_refer(tmp_path / "refcoco", refs, [annotation(1, **of_object), annotation(2)], [image(1)])
    assert prepare(tmp_path / "refcoco", tmp_path / "photos", tmp_path / "out") == 0
    [sample] = samples(tmp_path / "out/refcoco_unc_val")
    assert [one["text"] for one in sample["expressions"]] == ["good"]
    assert [one["id"] for one in sample["objects"]] == ["2"]
    found = report(tmp_path / "out/refcoco_unc_val")
    assert (found["counts"]["records read"], found["counts"]["records written"]) == (2, 1)
    assert {reason: one["count"] for reason, one in found["skipped"]["records"].items()} == {reason: 1}


BAD_MASKS: dict[str, tuple[Any, str]] = {
    "two points": ([[1, 1, 5, 5]], "a polygon of fewer than three points"),
    "another size": ({"size": [3, 4], "counts": [0, 12]}, "run lengths of another size than the image"),
    "no polygons": ([], "a segmentation without polygons"),
    "a light-year away": ([[0, 0, 1e16, 0, 1e16, 5]], "a polygon far outside the image"),
    "words": ("round", "'segmentation' is neither polygons nor run lengths"),
}


@pytest.mark.parametrize("name", BAD_MASKS)
def test_an_object_with_a_bad_mask_keeps_its_box(tmp_path: Path, name: str) -> None:
    segmentation, reason = BAD_MASKS[name]
    photos(tmp_path / "photos", COCO_PHOTO)
    refs = [ref(1, "a", "b")]
    write_refer(tmp_path / "refcoco", refs, [annotation(1, segmentation=segmentation)], [image(1)])
    assert prepare(tmp_path / "refcoco", tmp_path / "photos", tmp_path / "out") == 0
    [sample] = samples(tmp_path / "out/refcoco_unc_val")
    assert sample["objects"] == [{"id": "1", "bbox": [1, 5, 11, 13], "rle": None}]
    found = report(tmp_path / "out/refcoco_unc_val")
    where = f"{tmp_path}/refcoco/refs(unc).p: ref 1"
    assert found["skipped"] == {"masks": {reason: {"count": 1, "examples": [where]}}}


def test_an_expression_for_several_with_one_unusable_is_left_out(tmp_path: Path) -> None:
    photos(tmp_path / "photos", COCO_PHOTO)
    refs = [ref(1, "both", ann_id=[1, 2]), ref(2, "one", ann_id=[1]), ref(3, "none", ann_id=[-1])]
    annotations = [annotation(1), annotation(2, bbox=[90, 0, 5, 5])]
    write_refer(tmp_path / "grefcoco", refs, annotations, [image(1)], "grefs(unc).json")
    assert prepare(tmp_path / "grefcoco", tmp_path / "photos", tmp_path / "out") == 0
    [sample] = samples(tmp_path / "out/grefcoco_unc_val")
    assert [(one["text"], one["targets"]) for one in sample["expressions"]] == [("one", [0]), ("none", [])]


def test_repetitions_are_kept_to_evaluate_and_not_to_train(tmp_path: Path) -> None:
    photos(tmp_path / "photos", COCO_PHOTO, "COCO_train2014_000000000002.jpg")
    refs = [
        ref(number, "left", "left ", "it", image=number, split=split) for number, split in ((1, "train"), (2, "val"))
    ]
    annotations = [annotation(1), annotation(2, image=2), annotation(3)]
    refs.append(ref(3, "left", split="train"))  # the same words for another object
    write_refer(tmp_path / "refcoco", refs, annotations, [image(1), image(2)])
    assert prepare(tmp_path / "refcoco", tmp_path / "photos", tmp_path / "out") == 0
    said = {
        part: [
            (one["text"], one["targets"])
            for sample in samples(tmp_path / f"out/refcoco_unc_{part}")
            for one in sample["expressions"]
        ]
        for part in ("train", "val")
    }
    assert said == {
        "train": [("left", [0]), ("it", [0]), ("left", [1])],
        "val": [("left", [0]), ("left", [0]), ("it", [0])],
    }
    skipped = report(tmp_path / "out/refcoco_unc_train")["skipped"]["records"]
    assert skipped["the same expression again for the same object"]["count"] == 1


def test_odd_expressions_and_the_smallest_image(tmp_path: Path) -> None:
    photos(tmp_path / "photos", "1.png", size=(1, 1))
    odd = [" ".join(["word"] * 2000), "הכלב משמאל", "左边的狗", "🐕", "a\nb\tc"]
    lines = [{"image": "1.png", "expression": said, "box": [0, 0, 1, 1]} for said in odd]
    (tmp_path / "odd_val.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert prepare(tmp_path / "odd_val.jsonl", tmp_path / "photos", tmp_path / "out") == 0
    [sample] = samples(tmp_path / "out/odd_val")
    assert [one["text"] for one in sample["expressions"]] == odd


def test_the_truth_can_be_had_without_pictures(tmp_path: Path) -> None:
    for path in in_all_forms(tmp_path).values():
        [corpus] = open_referring([path])
        [work] = corpus.images
        found = corpus.describe(work, Report())
        assert found is not None
        assert work.dataset_id == "refcoco_unc_val"
        assert [one["bbox"] for one in found.content["objects"]] == [(1, 5, 11, 13), (2, 5, 12, 13)]
        assert [one["text"] for one in found.content["expressions"]] == ["left", "one", "right"]


def test_several_files_become_one_split_on_request(tmp_path: Path) -> None:
    forms = in_all_forms(tmp_path)
    [corpus] = open_referring([forms["refcoco_unc_val.jsonl"], forms["refcoco"]], "both_val")
    [work] = corpus.images  # the same photo
    found = corpus.describe(work, Report())
    assert found is not None
    assert work.dataset_id == "both_val"
    ids = [one["id"] for one in found.content["expressions"]]
    assert len(set(ids)) == 6


ERRORS = {
    "malicious pickle": ("refs(unc).p", b"cos\nsystem\n(S'true'\ntR.", "a pickle of more than plain data is not read"),
    "broken pickle": ("refs(unc).p", b"\x80\x02]q\x00(", "broken pickle"),
    "other JSON": ("x_val.json", b"[]", "neither refs, nor a file of MDETR's or of UNINEXT's form, nor JSON lines"),
    "broken JSON": ("x_val.json", b"{", "broken JSON"),
    "instances alone": ("instances.json", b'{"images": [], "annotations": []}', "neither refs, nor a file of MDETR's"),
    "no split": ("x.jsonl", b'{"image": "a.jpg", "expression": "a", "box": [0, 0, 1, 1]}', "`prepare --split NAME`"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_an_unusable_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    file, content, message = ERRORS[name]
    (tmp_path / "photos").mkdir()
    if file.endswith(".p"):
        write_refer(tmp_path, [], [], [])
    (tmp_path / file).write_bytes(content)
    assert prepare(tmp_path / file, tmp_path / "photos", tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert f"{tmp_path / file}" in said
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_without_referring_data_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert prepare(tmp_path / "empty", tmp_path, tmp_path / "out") == 2
    assert f"{tmp_path / 'empty'}: no referring data in this folder" in capsys.readouterr().err


STRANGE = [None, True, 0, -1, 10**30, 1e308, float("nan"), "", "../x", "\ud800", [], [None], {}, [[1, 2], [3]], "7"]


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value inside a JSON value."""
    if place:
        yield place
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from places(value[key], (*place, key))


@pytest.mark.parametrize("name", ["refcoco/instances.json", "refcoco_unc_val.json", "refcoco-unc/instances.json"])
def test_strange_values_anywhere_are_counted_or_named(tmp_path: Path, name: str) -> None:
    in_all_forms(tmp_path)
    path = tmp_path / name
    whole = path.read_text()
    rng = random.Random(0)
    for place in sorted(places(json.loads(whole)), key=str):
        content = inner = json.loads(whole)
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = rng.choice(STRANGE)
        path.write_text(json.dumps(content))
        try:
            corpora = open_referring([path.parent if name.startswith("refcoco/") else path])
        except FormatError:
            continue
        for corpus in corpora:
            said, served = Report(), 0
            for work in corpus.images:
                described = corpus.describe(work, said)
                served += described.records if described else 0
            read = said.counts["records read"] + corpus.report.counts["records read"]
            assert read == served + said.total_skipped("records") + corpus.report.total_skipped("records")


@pytest.mark.shared
def test_real_photos_with_their_expressions_are_converted_whole(shared: Path, tmp_path: Path) -> None:
    listed = published_refs(shared / "samples/refcoco/refs_with_image.json")
    by_data_set: dict[str, list[Json]] = {}
    for entry in listed:
        by_data_set.setdefault(entry["dataset"], []).append(entry)
    expressions = masks = 0
    pictures = set()
    for name, refs in by_data_set.items():
        partition = "umd" if name == "refcocog" else "unc"
        folder = write_published(tmp_path / name, f"refs({partition}).p", refs, protocol=0)
        assert prepare(folder, shared / "samples/images/coco", tmp_path / "out") == 0
        for part in {entry["split"] for entry in refs}:
            shards = tmp_path / "out" / f"{name.replace('+', 'plus')}_{partition}_{part}"
            assert set(report(shards)["skipped"]) <= {"masks"}
            for sample in samples(shards):
                pictures.add(sample["picture"])
                expressions += len(sample["expressions"])
                masks += sum(one["rle"] is not None for one in sample["objects"])
                for one in sample["objects"]:
                    if one["rle"]:
                        x0, y0, x1, y1 = one["bbox"]
                        of_mask = coco_mask.toBbox(one["rle"])[None]
                        assert coco_mask.iou(of_mask, np.array([[x0, y0, x1 - x0, y1 - y0]]), [False])[0, 0] > 0.9
    assert (len(listed), expressions, len(pictures)) == (53, 147, 11)
    assert masks == sum("segmentation" in entry for entry in listed)
