"""The commands about one photo: what they print and write, and one line for what cannot work."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from pixel_llm import cli
from pixel_llm.drawing.captioned_boxes import CaptionedBox
from pixel_llm.drawing.regions import FOUND
from pixel_llm.run_lengths import encoded
from pixel_llm.structures import ReferringPrediction, RegionPrediction


@pytest.fixture(scope="module")
def photo(toy: Path) -> Path:
    return min((toy / "raw/images").rglob("*.jpg"))


def say(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.delenv("PIXEL_LLM_DEBUG", raising=False)
    monkeypatch.setattr(sys, "argv", ["pixel-llm", *map(str, arguments), "--device", "cpu"])
    return cli.main()


def test_a_caption_is_written_as_lines_picture_and_json(
    tiny_run: Path, photo: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    out, words = tmp_path / "a.png", tmp_path / "a.json"
    assert say(monkeypatch, "caption", photo, "--checkpoint", tiny_run, "--out", out, "--json", words) == 0
    content = json.loads(words.read_text())
    assert capsys.readouterr().out.splitlines()[0] == content["caption"]
    assert content["key"] == photo.name
    width, height = Image.open(photo).size
    for word in content["words"]:
        x0, y0, x1, y1 = word["box"]
        assert 0 <= x0 <= x1 <= width
        assert 0 <= y0 <= y1 <= height
    assert " ".join(word["text"] for word in content["words"]) == " ".join(content["caption"].split())
    with Image.open(out) as picture:
        picture.load()
        assert picture.format == "PNG"


def test_what_cannot_work_is_one_line(tiny_run: Path, photo: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "cut.jpg").write_bytes(photo.read_bytes()[:500])
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    (tmp_path / "empty").mkdir()
    for image, checkpoint, message in (
        (tmp_path / "text.jpg", tiny_run, "text.jpg: the image cannot be read"),
        (tmp_path / "cut.jpg", tiny_run, "cut.jpg: the image cannot be read"),
        ("/nowhere/a.jpg", tiny_run, "no such file: /nowhere/a.jpg"),
        ("/", tiny_run, "/: a folder, give a file"),
        (photo, "/nowhere/run", "no checkpoint at /nowhere/run"),
        (photo, tmp_path / "empty", f"no checkpoint at {tmp_path}/empty"),
        (photo, tmp_path / "text.ckpt", "text.ckpt: not a checkpoint, or a damaged one"),
    ):
        assert say(monkeypatch, "caption", image, "--checkpoint", checkpoint) == 2
        said = capsys.readouterr().err
        assert message in said
        assert len(said.strip().splitlines()) == 1


def test_what_cannot_be_written_is_refused_before_anything_is_done(photo: Path, monkeypatch, capsys) -> None:
    for option, file, message in (
        ("--out", "/nowhere/a.png", "there is no folder /nowhere"),
        ("--json", "/nowhere/a.json", "there is no folder /nowhere"),
        ("--json", "/", "/: a folder, give a file to write"),
        ("--out", "a.docx", "a.docx: no kind of picture"),
    ):
        assert say(monkeypatch, "refer", photo, "a ring", "--checkpoint", "/nowhere/run", option, file) == 2
        said = capsys.readouterr().err
        assert message in said
        assert "no checkpoint" not in said


def test_queries_are_written_as_lines_picture_and_json(
    tiny_referring_run: Path, photo: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    out, file = tmp_path / "a.png", tmp_path / "a.json"
    queries = ["the ring", "ein Ring"]
    arguments = ("--checkpoint", tiny_referring_run, "--out", out, "--json", file)
    assert say(monkeypatch, "refer", photo, *queries, *arguments) == 0
    content = json.loads(file.read_text())
    assert [answer["query"] for answer in content] == queries
    *lines, last = capsys.readouterr().out.splitlines()
    assert last == f"picture: {out}"
    width, height = Image.open(photo).size
    for line, answer in zip(lines, content, strict=True):
        assert answer["mask"]["size"] == [height, width]
        box = " ".join(f"{value:.1f}" for value in answer["box"])
        area = coco_mask.decode(answer["mask"]).sum()
        query, score = answer["query"], answer["score"]
        assert line == f"{query}: box {box}, mask of {area} pixels, expected IoU {score:.2f}"
    with Image.open(out) as picture:
        assert picture.format == "PNG"
        assert FOUND in {colour for _, colour in picture.getcolors(10**6)}


def test_a_query_that_cannot_work_is_one_line(
    tiny_run: Path, tiny_referring_run: Path, photo: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    (tmp_path / "cut.jpg").write_bytes(photo.read_bytes()[:500])
    for verb, run, image, query, message in (
        ("refer", tiny_referring_run, photo, "", f"query {photo.name}/1 is empty"),
        ("refer", tiny_referring_run, tmp_path / "cut.jpg", "ring", "cut.jpg: the image cannot be read"),
        ("refer", tiny_run, photo, "ring", "TraceCaptioning does not find what queries name: configs/referring/"),
        ("caption", tiny_referring_run, photo, None, "ReferringLocalization does not write captions: configs/trace/"),
    ):
        assert say(monkeypatch, verb, image, *([] if query is None else [query]), "--checkpoint", run) == 2
        said = capsys.readouterr().err
        assert message in said
        assert len(said.strip().splitlines()) == 1


def test_boxes_and_clicks_are_written_as_lines_picture_and_json(
    tiny_region_run: Path, photo: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    out, file = tmp_path / "a.png", tmp_path / "a.json"
    places = ("--box", 10, 20, 60, 70, "--point", 30, 40, "--box", 40, 40, 100.5, 120, "--point", 50, 60)
    arguments = ("--checkpoint", tiny_region_run, "--out", out, "--json", file)
    assert say(monkeypatch, "describe", photo, *places, *arguments) == 0
    content = json.loads(file.read_text())
    assert [answer["box"] for answer in content] == [[10, 20, 60, 70], [40, 40, 100.5, 120], [30, 40, 50, 60]]
    assert capsys.readouterr().out.splitlines() == [
        f"box 10.0 20.0 60.0 70.0: {content[0]['caption']}",
        f"box 40.0 40.0 100.5 120.0: {content[1]['caption']}",
        f"point 30.0 40.0, 50.0 60.0: {content[2]['caption']}",
        f"picture: {out}",
    ]
    with Image.open(out) as picture:
        colours = {colour for _, colour in picture.getcolors(10**6)}
    assert {CaptionedBox(number, (0, 0, 1, 1), "").colour for number in (1, 2, 3)} <= colours


def test_masks_are_written_as_lines_picture_and_json(
    tiny_dialogues_run: Path, photo: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    out, file, region = tmp_path / "a.png", tmp_path / "a.json", tmp_path / "region.png"
    width, height = Image.open(photo).size
    mask = np.zeros((height, width), np.uint8)
    mask[20:60, 30:50] = 255
    Image.fromarray(mask).save(region)
    asked = ("--checkpoint", tiny_dialogues_run, "--out", out, "--json", file)
    assert say(monkeypatch, "describe", photo, "--mask", region, "--box", 30, 20, 50, 60, *asked) == 0
    content = json.loads(file.read_text())
    assert [answer["box"] for answer in content] == [[30, 20, 50, 60]] * 2
    assert capsys.readouterr().out.splitlines()[1] == f"mask {region}: {content[1]['caption']}"
    with Image.open(out) as picture:
        colours = {colour for _, colour in picture.getcolors(10**6)}
    assert {CaptionedBox(number, (0, 0, 1, 1), "").colour for number in (1, 2)} <= colours
    Image.fromarray(mask[:, :-1]).save(tmp_path / "narrow.png")
    Image.fromarray(mask * 0).save(tmp_path / "black.png")
    for masks, message in (
        ([tmp_path / "narrow.png"], f"narrow.png: {width - 1} x {height} pixels, for a photo of {width} x {height}"),
        ([tmp_path / "black.png"], "black.png: marks nothing"),
        ([tmp_path], f"{tmp_path}: a folder, give a file"),
    ):
        marks = [word for one in masks for word in ("--mask", one)]
        assert say(monkeypatch, "describe", photo, *marks, "--checkpoint", tiny_dialogues_run) == 2
        said = capsys.readouterr().err
        assert message in said
        assert len(said.strip().splitlines()) == 1


def test_an_answer_without_a_mask_is_said(
    tiny_dialogues_run: Path, photo: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    nothing = encoded(np.zeros((9, 9), bool))
    found = [ReferringPrediction("a/1", "the ring", (0, 0, 0, 0), nothing, answer="I see no ring.")]
    monkeypatch.setattr("pixel_llm.predictor.Predictor.refer", lambda *_: found)
    arguments = ("--checkpoint", tiny_dialogues_run, "--json", tmp_path / "a.json")
    assert say(monkeypatch, "refer", photo, "the ring", *arguments) == 0
    assert capsys.readouterr().out == "the ring: nothing found, the answer was 'I see no ring.'\n"
    assert json.loads((tmp_path / "a.json").read_text())[0]["answer"] == "I see no ring."


def test_objects_are_written_from_the_surest_on(
    tiny_dense_run: Path, photo: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    out, file = tmp_path / "a.png", tmp_path / "a.json"
    found = [
        RegionPrediction(photo.name, (1.0, 2.0, 30.0, 40.0), caption, score)
        for caption, score in (("a ring", 0.3), ("a cross", 0.75), ("a star", 0.299), ("a square", 0.1))
    ]
    monkeypatch.setattr("pixel_llm.predictor.Predictor.dense_caption", lambda *_: found)
    arguments = ("--checkpoint", tiny_dense_run, "--out", out, "--json", file)
    assert say(monkeypatch, "dense", photo, *arguments) == 0
    assert json.loads(file.read_text()) == [
        {"key": photo.name, "box": [1, 2, 30, 40], "caption": caption, "score": score}
        for caption, score in (("a cross", 0.75), ("a ring", 0.3))
    ]
    assert capsys.readouterr().out.splitlines() == [
        "0.75  box 1.0 2.0 30.0 40.0: a cross",
        "0.30  box 1.0 2.0 30.0 40.0: a ring",
        f"picture: {out}",
    ]
    assert say(monkeypatch, "dense", photo, *arguments, "--threshold", "0") == 0
    assert [answer["caption"] for answer in json.loads(file.read_text())] == ["a cross", "a ring", "a star", "a square"]


def test_no_object_is_an_empty_answer_and_a_sentence(
    tiny_dense_run: Path, photo: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    out, file = tmp_path / "a.png", tmp_path / "a.json"
    arguments = ("--checkpoint", tiny_dense_run, "--out", out, "--json", file)
    assert say(monkeypatch, "dense", photo, *arguments) == 0
    assert capsys.readouterr().out.startswith("no object of score 0.3 or more; the surest has 0.0")
    assert json.loads(file.read_text()) == []
    assert out.is_file()
    monkeypatch.setattr("pixel_llm.predictor.Predictor.dense_caption", lambda *_: [])
    assert say(monkeypatch, "dense", photo, *arguments) == 0
    assert capsys.readouterr().out.startswith("no object of score 0.3 or more; none was found at all")


def test_places_that_cannot_be_meant_are_one_line(
    tiny_region_run: Path, tiny_dense_run: Path, photo: Path, monkeypatch, capsys
) -> None:
    for verb, run, places, message in (
        ("describe", tiny_region_run, ("--box", 60, 20, 10, 70), "box 60 20 10 70: in the wrong order"),
        ("describe", tiny_region_run, ("--box", -5, 20, 10, 70), "box -5 20 10 70: reaches beyond the photo"),
        ("describe", tiny_region_run, ("--box", 0, 0, 0.5, 0.5), "box 0 0 0.5 0.5: looks normalised"),
        ("describe", tiny_region_run, ("--point", 9000, 1), "point 9000 1: outside the photo"),
        ("describe", tiny_region_run, (), "nothing is asked"),
        ("dense", tiny_region_run, (), "RegionCaptioning does not find objects: configs/dense_captioning/"),
        ("dense", tiny_dense_run, ("--threshold", 30), "--threshold 30: not in [0, 1]"),
    ):
        assert say(monkeypatch, verb, photo, *places, "--checkpoint", run) == 2
        said = capsys.readouterr().err
        assert message in said
        assert len(said.strip().splitlines()) == 1


def test_help_and_what_cannot_work_are_told_without_torch(photo: Path, tmp_path: Path) -> None:
    code = "import sys; from pixel_llm import cli\n"
    code += "try: cli.main()\nfinally: print('torch' in sys.modules)"
    for verb, *arguments in (
        ("caption", "--help"),
        ("refer", photo),
        ("caption", photo, "--checkpoint", tmp_path / "nowhere"),
        ("describe", photo, "--checkpoint", tmp_path),
        ("dense", photo, "--checkpoint", tmp_path, "--threshold", 30),
    ):
        line = [sys.executable, "-c", code, verb, *map(str, arguments)]
        assert subprocess.run(line, capture_output=True, text=True).stdout.endswith("False\n")
