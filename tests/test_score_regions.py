"""Scoring files of captioned boxes: the figures of the metrics, and every way a file can be wrong, in one line."""

import io
import json
import math
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules.shard_index import Manifest, ShardEntry, write_index, write_manifest
from pixel_llm import cli, score_regions
from pixel_llm.metrics import dense_captioning
from pixel_llm.metrics.dense_captioning import dense_figures
from pixel_llm.metrics.dense_captioning_scores import DetectedRegions, Protocol, TrueRegions

HEIGHT, WIDTH = 48, 64
REGIONS = [((2, 3, 22, 23), "a red ball"), ((30, 10, 60, 40), "a blue cup"), ((30, 10, 60, 39), "the cup")]


@pytest.fixture(autouse=True)
def _quick_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    """METEOR and the other scores of captions have tests of their own; here they need not start a program."""

    def equal(captions: list[str], references: list[list[str]]) -> tuple[str, np.ndarray]:
        pairs = zip(captions, references, strict=True)
        return "meteor", np.array([float(caption in own) for caption, own in pairs])

    def shares(captions: list[str], references: list[list[str]]) -> dict[str, float]:
        values = equal(captions, references)[1]
        return {"meteor": float(values.mean()), "cider": sum(map(len, references)) / len(references)}

    monkeypatch.setattr(dense_captioning, "_meteor", equal)
    monkeypatch.setattr(score_regions, "score_captions", shares)


def image(split: str, number: int) -> dict[str, Any]:
    regions = [{"id": f"{number}{i}", "bbox": list(box), "phrase": text} for i, (box, text) in enumerate(REGIONS)]
    content = {"dataset_id": split, "image_id": str(number), "width": WIDTH, "height": HEIGHT}
    return content | {"regions": regions if number else []}  # the first image has none


def referring_image(split: str, number: int) -> dict[str, Any]:
    """The same as expressions, with one for two objects, which is no region."""
    content = image(split, number)
    regions = content.pop("regions")
    targets = [[0], [1], [2], [0, 1]] if regions else []
    texts = [text for _, text in REGIONS] + ["both"]
    return content | {
        "objects": [{"id": region["id"], "bbox": region["bbox"], "rle": None} for region in regions],
        "expressions": [
            {"id": f"{number}{i}", "text": texts[i], "targets": meant, "kind": ""} for i, meant in enumerate(targets)
        ],
    }


def shards(folder: Path, split: str = "s", images: int = 3, kind: str = "regions") -> Path:
    folder.mkdir(parents=True)
    with tarfile.open(folder / "0.tar", "w") as archive:
        for number in range(images):
            content = (image if kind == "regions" else referring_image)(split, number)
            data = json.dumps(content).encode()
            member = tarfile.TarInfo(f"{number}.json")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    index = write_index(folder / "0.tar")
    write_manifest(folder, Manifest({"kind": kind}, [ShardEntry("0.tar", len(index), index.tar_bytes)]))
    return folder


def lines(path: Path, predictions: list[Any]) -> Path:
    path.write_text("".join(f"{p if isinstance(p, str) else json.dumps(p)}\n" for p in predictions))
    return path


def run(monkeypatch: pytest.MonkeyPatch, verb: str, predictions: Path, annotations: Path, *more: Any) -> int:
    arguments = ["--predictions", predictions, "--annotations", annotations, *more]
    monkeypatch.setattr(sys, "argv", ["pixel-llm", "score", verb, *map(str, arguments)])
    return cli.main()


def detections(split: str = "s") -> list[dict[str, Any]]:
    """Of two of the three images: true boxes, one with a wrong caption, and one that is nowhere near."""
    return [
        {"key": f"{split}/1", "box": REGIONS[0][0], "caption": "a red ball", "score": 0.9},
        {"key": f"{split}/1", "box": REGIONS[1][0], "caption": "grass", "score": 0.8},
        {"key": f"{split}/0", "box": (0, 0, 9, 9), "caption": "a red ball", "score": 0.95},
    ]


def wanted(protocol: Protocol) -> dict[str, float]:
    """The figures of the metric for the same images."""
    true = TrueRegions(np.array([box for box, _ in REGIONS], float), [text for _, text in REGIONS])
    truths = [TrueRegions(np.zeros((0, 4)), []), true, true]
    rows = detections()
    found = [
        DetectedRegions(
            np.array([row["box"] for row in own], float).reshape(-1, 4),
            np.array([row["score"] for row in own]),
            [row["caption"] for row in own],
        )
        for own in (rows[2:], rows[:2], [])
    ]
    return dense_figures(truths, found, protocol, by_threshold=True)


@pytest.mark.parametrize("kind", ["regions", "referring"])
def test_dense_figures_are_those_of_the_metric(tmp_path, monkeypatch, capsys, kind: str) -> None:
    shards(tmp_path / "a/s", kind=kind), shards(tmp_path / "a/other", "other", kind=kind)
    file, out = lines(tmp_path / "p.jsonl", detections()), tmp_path / "out.json"
    assert run(monkeypatch, "dense", file, tmp_path / "a", "--json", out) == 0
    found = json.loads(out.read_text())
    want = {"images": 3, "regions": 6, "detections": 3} | wanted(Protocol())
    assert found["scores"] == {"s": pytest.approx(want)}
    assert 0 < want["map"] < want["detection_map"] < 1
    assert found["protocol"] == "regions merged at IoU 0.7"
    said = capsys.readouterr()
    assert said.err.splitlines() == [
        "s: 1 images without a prediction, counted as without detections",
        "s: scoring 3 captioned boxes",
    ]
    header, row, protocol = said.out.splitlines()
    assert dict(zip(header.split(), row.split(), strict=True))["map"] == f"{100 * want['map']:.1f}"
    assert protocol == "protocol: regions merged at IoU 0.7"


def test_dense_protocols_are_named_beside_their_figures(tmp_path, monkeypatch, capsys) -> None:
    file, folder = lines(tmp_path / "p.jsonl", detections()), shards(tmp_path / "s")
    assert run(monkeypatch, "dense", file, folder, "--single-references", "--lua-compat") == 0
    said = capsys.readouterr().out
    figure = wanted(Protocol(merge=False, lua_compat=True))["map_single_reference_lua_compat"]
    assert dict(zip(*map(str.split, said.splitlines()[:2]), strict=True))["map_single_reference_lua_compat"] == (
        f"{100 * figure:.1f}"
    )
    assert "single reference regions, matched as the Lua program does" in said


def test_a_box_that_reaches_out_of_the_image_is_clipped(tmp_path, monkeypatch) -> None:
    folder, out = shards(tmp_path / "s"), tmp_path / "out.json"
    scores = []
    for x1 in (60, 640):
        box = {"key": "s/1", "box": (30, 10, x1, 40), "caption": "a blue cup", "score": 1}
        assert run(monkeypatch, "dense", lines(tmp_path / "p", [box]), folder, "--json", out) == 0
        scores.append(json.loads(out.read_text())["scores"]["s"])
    assert scores[1]["ap_iou0.7_meteor0.25"] == scores[0]["ap_iou0.7_meteor0.25"] > 0


def test_region_captions_with_single_and_merged_references(tmp_path, monkeypatch, capsys) -> None:
    said = ["a red ball", "the cup", "the cup"]
    rows = [{"key": f"s/1{i}", "caption": text, "score": -1.5} for i, text in enumerate(said)]
    file, folder, out = lines(tmp_path / "p", rows), shards(tmp_path / "s"), tmp_path / "out.json"
    assert run(monkeypatch, "regions", file, folder, "--json", out) == 0
    assert json.loads(out.read_text()) == {
        "protocol": "a single reference per region",
        "scores": {"s": {"regions": 6, "meteor": pytest.approx(2 / 6), "cider": 1}},
    }
    assert capsys.readouterr().err.splitlines() == [
        "s: 3 regions without a prediction, counted as nothing said",
        "s: scoring 6 captions",
    ]
    assert run(monkeypatch, "regions", file, folder, "--merge-references", "--json", out) == 0
    assert json.loads(out.read_text()) == {
        "protocol": "references of regions merged at IoU 0.7",
        "scores": {"s": {"regions": 6, "meteor": pytest.approx(3 / 6), "cider": pytest.approx(5 / 3)}},
    }


def test_raw_annotations_score_as_shards(tmp_path, monkeypatch) -> None:
    raw, folder = tmp_path / "s_test.json", shards(tmp_path / "s", "s_test")
    content: dict[str, list[Any]] = {"images": [], "annotations": []}
    for number in range(3):
        content["images"].append({"id": number, "file_name": f"{number}.jpg", "width": WIDTH, "height": HEIGHT})
        for region in image("s", number)["regions"]:
            x0, y0, x1, y1 = region["bbox"]
            row = {"id": int(region["id"]), "image_id": number, "bbox": [x0, y0, x1 - x0, y1 - y0]}
            content["annotations"].append(row | {"caption": region["phrase"], "category_id": 1})
    raw.write_text(json.dumps(content))
    file, out, figures = lines(tmp_path / "p", detections("s_test")), tmp_path / "out.json", []
    for annotations in (folder, raw):
        assert run(monkeypatch, "dense", file, annotations, "--json", out) == 0
        figures.append(json.loads(out.read_text())["scores"]["s_test"])
    assert figures[0] == figures[1]
    assert figures[0]["images"] == 3


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ("{", "broken JSON"),
        ({"caption": "x"}, "missing key 'key'"),
        ({"key": "s/9"}, "the annotations have no image 's/9'"),
        ({"key": "other/1"}, "the annotations have no split 'other' of a key SPLIT/ID, they hold s"),
        ("[", "broken JSON: a prediction is a JSON object on a line of its own, with a key SPLIT/ID"),
        ({"box": None}, "'box' is not a list"),
        ({"box": [0, 0, 1]}, "'box' does not hold four numbers"),
        ({"box": [0, math.nan, 1, 1]}, "'box' is not a finite number"),
        ({"box": [5, 0, 4, 1]}, "'box' has x1 < x0 or y1 < y0: is it x y width height?"),
        ({"box": [65, 0, 70, 10]}, "'box' lies outside the image of 64 x 48 pixels: is it of a resized one?"),
        ({"score": "high"}, "'score' is not a number"),
        ({"score": math.inf}, "'score' is not a finite number"),
        ({"caption": None}, "'caption' is not a string"),
    ],
)
def test_a_wrong_detection_is_named_in_one_line(tmp_path, monkeypatch, capsys, changed: Any, reason: str) -> None:
    good = detections()[0]
    without = changed == {"caption": "x"}
    wrong = changed if isinstance(changed, str) or without else good | changed
    file = lines(tmp_path / "p.jsonl", [good, "", wrong])
    assert run(monkeypatch, "dense", file, shards(tmp_path / "s")) == 2
    said = capsys.readouterr()
    assert said.err.strip().startswith(f"error: {file}:3: {reason}")
    assert len(said.err.strip().splitlines()) == 1
    assert not said.out


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"key": "s/99", "caption": "x"}, "the annotations have no region 's/99'"),
        ({"key": "s/1", "caption": "x"}, "the annotations have no region 's/1', only an image"),
        ({"key": "s/11"}, "missing key 'caption'"),
        ({"key": "s/10", "caption": "x"}, "a second prediction for 's/10', after line 1"),
    ],
)
def test_a_wrong_caption_is_named_in_one_line(tmp_path, monkeypatch, capsys, wrong: Any, reason: str) -> None:
    file = lines(tmp_path / "p.jsonl", [{"key": "s/10", "caption": "a red ball"}, wrong])
    assert run(monkeypatch, "regions", file, shards(tmp_path / "s")) == 2
    assert capsys.readouterr().err.strip() == f"error: {file}:2: {reason}"


def test_images_that_are_there_twice_are_one_line(tmp_path, monkeypatch, capsys) -> None:
    shards(tmp_path / "a/one"), shards(tmp_path / "a/two")
    assert run(monkeypatch, "dense", lines(tmp_path / "p", detections()), tmp_path / "a") == 2
    assert capsys.readouterr().err.strip() == "error: the annotations have two images 's/0'"


def test_files_and_folders_that_cannot_be_meant_are_one_line(tmp_path, monkeypatch, capsys) -> None:
    good, shares = lines(tmp_path / "p", detections()), detections()[0] | {"box": [0.25, 0.5, 0.5, 1]}
    folder = shards(tmp_path / "s")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/1.jpg").touch()
    for predictions, annotations, reason in (
        (folder, good, f"{folder}: a folder, where a file of predictions is expected"),
        (tmp_path / "nowhere", folder, f"no such file: {tmp_path}/nowhere"),
        (good, tmp_path / "nowhere", f"no such file: {tmp_path}/nowhere"),
        (good, tmp_path / "photos", f"{tmp_path}/photos: neither shards nor folders of shards are in it, but 1.jpg"),
        (lines(tmp_path / "q", [shares]), folder, f"{tmp_path}/q: all boxes lie within [0, 1]: give pixels of the"),
    ):
        assert run(monkeypatch, "dense", predictions, annotations) == 2
        said = capsys.readouterr().err.strip()
        assert said.startswith(f"error: {reason}")
        assert len(said.splitlines()) == 1
