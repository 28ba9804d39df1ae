"""Regions as shards: what a sample holds, whatever form it comes from, and what is left out."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import webdataset as wds
from PIL import Image

from datamodules.formats.records import FormatError
from datamodules.prepare.command import main
from datamodules.prepare.region_corpora import read_regions
from datamodules.prepare.regions import CLIPPED, CLIPPED_AS_FOUND, split_corpus
from datamodules.prepare.report import Report
from tests.datamodules.region_data import BOX, described, image_data, region, write

Json = dict[str, Any]
SAID = {1: ["a red ball", "ball on the floor"], 2: ["a dog"]}  # image -> its phrases
CORNERS = (5, 6, 25, 16)


def photos(folder: Path, *names: str, size: tuple[int, int] = (40, 30)) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (90, 20, 20)).save(folder / name)
    return folder


def prepare(command: str, *more: object) -> int:
    return main([command, *map(str, more), "--workers", "1"])


def visual_genome(root: Path, entries: Any, *more: object, images: str = "photos") -> int:
    """Converts region descriptions in `root` with the images there."""
    path = write(root / "region_descriptions.json", entries)
    return prepare("visual-genome", "--regions", path, "--images", root / images, "--out", root / "out", *more)


def samples(folder: Path) -> Iterator[Json]:
    for sample in wds.WebDataset(str(folder / "shard-00000.tar"), shardshuffle=False):
        yield json.loads(sample["json"])


def report(folder: Path) -> Json:
    found: Json = json.loads((folder / "report.json").read_text())
    return found


def in_all_forms(root: Path) -> dict[str, list[object]]:
    """The regions of `SAID` and an image without any, for validation: the form's file -> the command for it."""
    regions = [(image, 10 * image + i, phrase) for image in SAID for i, phrase in enumerate(SAID[image])]
    write(root / "densecap_splits.json", {"train": [], "val": [1, 2, 3]})
    write(root / "image_data.json", [image_data(image) for image in (1, 2, 3)])
    entries = [
        described(image, *(region(number, phrase) for owner, number, phrase in regions if owner == image))
        for image in (1, 2, 3)
    ]
    images = [{"id": image, "file_name": f"{image}.jpg", "width": 40, "height": 30} for image in (1, 2, 3)]
    annotations = [{"id": n, "image_id": i, "bbox": list(BOX), "caption": phrase} for i, n, phrase in regions]
    single = [{"image": f"{i}.jpg", "id": n, "box": list(CORNERS), "phrase": phrase} for i, n, phrase in regions]
    of_images = [
        {
            "image": f"{image}.jpg",
            "regions": [
                {k: line[k] for k in ("id", "box", "phrase")} for line in single if line["image"] == f"{image}.jpg"
            ],
        }
        for image in (1, 2, 3)
    ]
    files = {
        "vg/region_descriptions.json": entries,
        "vg/val.json": {"images": images, "annotations": annotations},
        "one/vg_val.jsonl": "".join(f"{json.dumps(line)}\n" for line in [*single, of_images[-1]]),
        "all/vg_val.jsonl": "".join(f"{json.dumps(line)}\n" for line in of_images),
    }
    paths = {name: write(root / name, content) for name, content in files.items()}
    commands: dict[str, list[object]] = {
        name: ["regions", "--annotations", path] for name, path in paths.items() if "descriptions" not in name
    }
    path = paths["vg/region_descriptions.json"]
    more = ["--splits", root / "densecap_splits.json", "--image-data", root / "image_data.json"]
    return {"vg/region_descriptions.json": ["visual-genome", "--regions", path, *more], **commands}


def test_every_form_gives_the_same_samples(tmp_path: Path) -> None:
    photos(tmp_path / "photos", "1.jpg", "2.jpg", "3.jpg")
    for name, command in in_all_forms(tmp_path).items():
        out = tmp_path / "out" / name
        assert prepare(*command, "--images", tmp_path / "photos", "--out", out) == 0  # type: ignore[arg-type]
        found = list(samples(out / "vg_val"))
        suffix = ".jpg" if name.endswith("jsonl") else ""  # the path is the image's id in JSON lines
        assert found == [
            {
                "dataset_id": "vg_val",
                "image_id": f"{image}{suffix}",
                "width": 40,
                "height": 30,
                "picture": f"vg/{image}{suffix}",
                "regions": [
                    {"id": str(10 * image + i), "bbox": list(CORNERS), "phrase": phrase}
                    for i, phrase in enumerate(SAID.get(image, []))
                ],
            }
            for image in (1, 2, 3)
        ]
        assert report(out / "vg_val")["skipped"] == {}
        assert report(out / "vg_val")["counts"]["images without regions"] == 1


def test_images_are_looked_for_in_every_folder(tmp_path: Path) -> None:
    photos(tmp_path / "vg", "VG_100K/1.jpg", "VG_100K_2/2.jpg")
    write(tmp_path / "region_descriptions.json", [described(i, region(i, "a")) for i in (1, 2)])
    write(tmp_path / "image_data.json", [image_data(1), image_data(2, folder="VG_100K_2")])
    first, second = tmp_path / "vg/VG_100K", tmp_path / "vg/VG_100K_2"
    layouts: list[tuple[list[object], int]] = [
        ([first, second], 2),
        ([tmp_path / "vg"], 2),
        ([first], 1),
        ([second], 1),
    ]
    for known in ([], ["--image-data", tmp_path / "image_data.json"]):
        for number, (folders, found) in enumerate(layouts):
            out = tmp_path / f"out-{number}-{len(known)}"
            source = ["--regions", tmp_path / "region_descriptions.json", "--images", *folders, "--out", out]
            assert prepare("visual-genome", *source, *known) == 0
            assert len(list(samples(out / "vg_train"))) == found
            not_found = report(out / "vg_train")["skipped"].get("images", {}).get("image not found", {"count": 0})
            assert not_found["count"] == 2 - found


def test_boxes_are_clipped_to_the_image_and_counted(tmp_path: Path) -> None:
    photos(tmp_path / "photos", "1.jpg")
    regions = [region(1, "in", (5, 6, 35, 24)), region(2, "over", (-3, 6, 60.5, 10)), region(3, "low", (5, 20, 9, 99))]
    data = write(tmp_path / "image_data.json", [image_data(1)])
    for split, more, name in (("my_val", ["--image-data", data], CLIPPED), ("my_test", [], CLIPPED_AS_FOUND)):
        assert visual_genome(tmp_path, [described(1, *regions)], "--split", split, *more) == 0
        [sample] = samples(tmp_path / "out" / split)
        assert [one["bbox"] for one in sample["regions"]] == [[5, 6, 40, 30], [0, 6, 40, 16], [5, 20, 14, 30]]
        clipped = {name: n for name, n in report(tmp_path / "out" / split)["counts"].items() if "clipped" in name}
        assert clipped == {name: 2}
    assert "--image-data" in CLIPPED_AS_FOUND


LEFT_OUT: dict[str, tuple[Any, str]] = {
    "empty": (region(1, ""), "empty phrase"),
    "blank": (region(1, " \n"), "empty phrase"),
    "no area": (region(1, "a", (5, 6, 0, 9)), "zero-area box"),
    "outside": (region(1, "a", (41, 6, 5, 9)), "a box outside the image"),
    "touching the edge": (region(1, "a", (-5, 6, 5, 9)), "a box outside the image"),
    "missing key": ({"region_id": 1, "x": 1, "y": 2, "width": 3, "height": 4}, "missing key 'phrase'"),
}


@pytest.mark.parametrize("name", LEFT_OUT)
def test_an_unusable_region_is_counted_and_left_out(tmp_path: Path, name: str) -> None:
    bad, reason = LEFT_OUT[name]
    photos(tmp_path / "photos", "1.jpg")
    assert visual_genome(tmp_path, [described(1, bad, region(2, "good"))]) == 0
    [sample] = samples(tmp_path / "out/vg_train")
    assert [one["phrase"] for one in sample["regions"]] == ["good"]
    found = report(tmp_path / "out/vg_train")
    assert (found["counts"]["records read"], found["counts"]["records written"]) == (2, 1)
    where = f"{tmp_path / 'region_descriptions.json'}: region 1"
    assert found["skipped"]["records"] == {reason: {"count": 1, "examples": [where]}}


def test_odd_regions_are_served(tmp_path: Path) -> None:
    """A phrase of 300 words, two thousand regions in one image, the smallest image."""
    photos(tmp_path / "photos", "1.jpg")
    photos(tmp_path / "photos", "2.jpg", size=(1, 1))
    long = " ".join(["word"] * 300)
    odd = [long, "הכלב משמאל", "左边的狗", "🐕", "a\nb\tc"]
    many = [region(100 + i, f"region {i}") for i in range(2000)]
    entries = [described(1, *many), described(2, *(region(i, said, (0, 0, 1, 1)) for i, said in enumerate(odd)))]
    assert visual_genome(tmp_path, entries) == 0
    one, two = samples(tmp_path / "out/vg_train")
    assert [found["phrase"] for found in one["regions"]] == [f"region {i}" for i in range(2000)]
    assert [found["phrase"] for found in two["regions"]] == odd


def test_an_image_without_usable_regions_is_kept_to_evaluate_alone(tmp_path: Path) -> None:
    photos(tmp_path / "photos", "1.jpg", "2.jpg", "3.jpg")
    entries = [described(1, region(1, "good")), described(2), described(3, region(3, " "))]
    for name, kept in (("my_train", ["1"]), ("my_test", ["1", "2", "3"])):
        assert visual_genome(tmp_path, entries, "--split", name) == 0
        assert [sample["image_id"] for sample in samples(tmp_path / "out" / name)] == kept
    assert report(tmp_path / "out/my_train")["skipped"]["images"]["no usable record"]["count"] == 2
    assert report(tmp_path / "out/my_test")["counts"]["images without regions"] == 2


def test_images_in_no_split_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos(tmp_path / "photos", "1.jpg", "2.jpg", "3.jpg")
    splits = write(tmp_path / "splits.json", {"train": [1], "test": [3]})
    assert visual_genome(tmp_path, [described(i, region(i, "a")) for i in (1, 2, 3)], "--splits", splits) == 0
    for name, image in (("vg_train", "1"), ("vg_test", "3")):
        assert [sample["image_id"] for sample in samples(tmp_path / "out" / name)] == [image]
        notes = report(tmp_path / "out" / name)["notes"]
        assert any(note.startswith("1 images, not the published ") for note in notes)
    assert capsys.readouterr().out.count(f"1 images are in no split of {splits}") == 1


def test_images_of_evaluation_splits_are_not_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A photo of Visual Genome that is also COCO's lies in shards to evaluate on."""
    photos(tmp_path / "photos", "1.jpg", "2.jpg", "COCO_train2014_000000000057.jpg")
    line = {"image": "COCO_train2014_000000000057.jpg", "box": [1, 1, 5, 5], "phrase": "a"}
    write(tmp_path / "mine_test.jsonl", json.dumps(line))
    source = ["--annotations", tmp_path / "mine_test.jsonl", "--images", tmp_path / "photos"]
    assert prepare("regions", *source, "--out", tmp_path / "evaluation") == 0
    data = write(tmp_path / "image_data.json", [image_data(1, coco_id=57), image_data(2)])
    entries = [described(1, region(1, "a")), described(2, region(2, "b"))]
    more = ["--image-data", data, "--evaluation", tmp_path / "evaluation"]
    capsys.readouterr()
    assert visual_genome(tmp_path, entries, *more) == 2
    assert "vg_train: 1 of 2 images are of evaluation splits (mine_test), such as coco/57" in capsys.readouterr().err
    assert visual_genome(tmp_path, entries, *more, "--leaking-images", "drop") == 0
    assert [sample["picture"] for sample in samples(tmp_path / "out/vg_train")] == ["vg/2"]


ERRORS: dict[str, tuple[str, str, str]] = {
    "broken JSON": ("x_val.json", "{", "broken JSON"),
    "Visual Genome's": ("region_descriptions.json", "[]", "which `prepare visual-genome` reads"),
    "other JSON": ("x_val.json", "[]", "not a JSON object"),
    "objects without captions": (
        "x_val.json",
        json.dumps(
            {
                "images": [{"id": 1, "file_name": "1.jpg", "width": 4, "height": 3}],
                "annotations": [{"id": 7, "image_id": 1, "bbox": [0, 0, 1, 1]}],
            }
        ),
        "no usable region of x_val: missing key 'caption' (1 records), such as ",
    ),
    "no split": ("x.jsonl", '{"image": "a.jpg", "phrase": "a", "box": [0, 0, 1, 1]}', "`prepare --split NAME`"),
    "shares": ("x_val.jsonl", '{"image": "a", "phrase": "a", "box": [0, 0.1, 1, 1]}', "all boxes lie within [0, 1]"),
    "shares in COCO's form": (
        "x_val.json",
        json.dumps(
            {
                "images": [{"id": 1, "file_name": "1.jpg", "width": 4, "height": 3}],
                "annotations": [{"id": 7, "image_id": 1, "bbox": [0.5, 0.25, 0.5, 0.5], "caption": "a"}],
            }
        ),
        "all boxes lie within [0, 1]: give pixels of the original image",
    ),
    "empty": ("x_val.jsonl", "", "empty"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_an_unusable_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    file, content, message = ERRORS[name]
    path = write(tmp_path / file, content)
    assert prepare("regions", "--annotations", path, "--images", tmp_path, "--out", tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert str(path) in said
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_missing_image_folder_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert visual_genome(tmp_path, [described(1, region(1, "a"))], images="nowhere") == 2
    assert capsys.readouterr().err == f"pixel-llm prepare: no image folder {tmp_path / 'nowhere'}\n"


STRANGE = [None, True, 0, -1, 10**30, 1e308, float("nan"), "", "../x", "\ud800", [], [None], {}, [[1, 2], [3]], "7"]


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value inside a JSON value."""
    if place:
        yield place
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from places(value[key], (*place, key))


def test_strange_values_anywhere_are_counted_or_named(tmp_path: Path) -> None:
    in_all_forms(tmp_path)
    path = tmp_path / "vg/val.json"
    whole = path.read_text()
    rng = random.Random(0)
    for place in sorted(places(json.loads(whole)), key=str):
        content = inner = json.loads(whole)
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = rng.choice(STRANGE)
        path.write_text(json.dumps(content))
        try:
            corpora = [split_corpus(split) for split in read_regions([path])]
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
def test_real_pictures_with_their_regions_are_converted_whole(shared: Path, tmp_path: Path) -> None:
    """The nine pictures of Visual Genome that there are, small, with the boxes that fit them, as JSON lines."""
    listed = json.loads((shared / "samples/visual_genome/regions_with_lowres_image.json").read_text())
    lines = [
        {
            "image": Path(entry["file_name"]).name,
            "regions": [
                {
                    "id": r["region_id"],
                    "box": [r["x_px"], r["y_px"], r["x_px"] + r["w_px"], r["y_px"] + r["h_px"]],
                    "phrase": r["phrase"],
                }
                for r in entry["regions"]
            ],
        }
        for entry in listed
    ]
    write(tmp_path / "vg_test.jsonl", "".join(f"{json.dumps(line)}\n" for line in lines))
    images = shared / "samples/images/vg_lowres"
    source = ["--annotations", tmp_path / "vg_test.jsonl", "--images", images, "--out", tmp_path / "out"]
    assert prepare("regions", *source) == 0
    found = list(samples(tmp_path / "out/vg_test"))
    assert [(len(sample["regions"]), sample["width"], sample["height"]) for sample in found] == [
        (len(entry["regions"]), entry["width"], entry["height"]) for entry in listed
    ]
    assert sum(len(sample["regions"]) for sample in found) == 886
    phrases = {str(r["region_id"]): r["phrase"].strip() for entry in listed for r in entry["regions"]}
    assert {r["id"]: r["phrase"] for sample in found for r in sample["regions"]} == phrases
