"""LLaVA's conversations as shards: one sample for each image, and what became of the rest."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from datamodules.prepare.command import main
from datamodules.prepare.llava import open_corpus
from datamodules.prepare.report import Report
from datamodules.prepare.shards import write_shards
from datamodules.records import read_field
from datamodules.shard_index import ShardError, open_shards


def entry(image: str | None, *said: str) -> dict[str, Any]:
    turns = [{"from": ("human", "gpt")[number % 2], "value": value} for number, value in enumerate(said)]
    return {"id": "1", "conversations": turns} | ({} if image is None else {"image": image})


def convert(folder: Path, *entries: dict[str, Any]) -> tuple[Report, list[dict[str, Any]]]:
    """The report of a conversion and the samples' contents; the pictures `coco/a.jpg` and `coco/b.jpg` exist."""
    (folder / "images/coco").mkdir(parents=True)
    for name in "ab":
        Image.new("RGB", (12, 8)).save(folder / f"images/coco/{name}.jpg")
    (folder / "mix.json").write_text(json.dumps(entries))
    report = write_shards(open_corpus([folder / "mix.json"]), folder / "images", folder / "out")
    return report, [json.loads(data) for data in read_field(open_shards(folder / "out", ["llava"]), "json")]


def test_all_that_is_said_of_an_image_is_one_sample(tmp_path: Path) -> None:
    report, contents = convert(
        tmp_path,
        entry("coco/a.jpg", "<image>\nIs it?", "Yes.", "Why?", "It is so."),
        entry("coco/b.jpg", "What?", "That."),
        entry("coco/a.jpg", "Who?", "They."),
    )
    assert [(one["dataset_id"], one["image_id"], one["width"], one["height"]) for one in contents] == [
        ("mix", "coco/a.jpg", 12, 8),
        ("mix", "coco/b.jpg", 12, 8),
    ]
    assert contents[0]["turns"] == [
        {"question": "Is it?", "answer": "Yes."},
        {"question": "Why?", "answer": "It is so."},
        {"question": "Who?", "answer": "They."},
    ]
    assert (report.counts["records read"], report.counts["records written"]) == (3, 3)
    assert report.skipped == {}


def test_what_cannot_be_used_is_counted(tmp_path: Path) -> None:
    report, contents = convert(
        tmp_path,
        entry(None, "How are you?", "Well."),
        entry("coco/a.jpg", "Is it?", "Yes.", "Why?"),
        entry("coco/a.jpg", "Is it?", "Yes.", "Why?", " \n"),
        entry("coco/b.jpg", "What?", ""),
        entry("coco/none.jpg", "Where?", "There."),
    )
    assert [one["turns"] for one in contents] == [[{"question": "Is it?", "answer": "Yes."}]]
    assert (report.counts["records read"], report.counts["records written"]) == (5, 1)
    reasons = {kind: {reason: n.count for reason, n in found.items()} for kind, found in report.skipped.items()}
    assert reasons == {
        "records": {
            "a conversation without an image": 1,
            "questions and answers that do not alternate": 1,
            "no answer": 1,
            "image not found": 1,
        },
        "turns": {"empty answer": 2},
        "images": {"no usable record": 1, "image not found": 1},
    }


def test_the_command_converts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    convert(tmp_path, entry("coco/a.jpg", "Is it?", "Yes."))
    out = tmp_path / "again"
    sources = ["--annotations", f"{tmp_path}/*.json", "--images", f"{tmp_path}/images"]
    assert main(["llava", *sources, "--out", str(out), "--workers", "1"]) == 0
    assert "images written: 1\n" in capsys.readouterr().out
    assert (out / "shard-00000.tar").read_bytes() == (tmp_path / "out/shard-00000.tar").read_bytes()


def test_what_is_about_no_image_becomes_shards_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    convert(
        tmp_path,
        entry("coco/a.jpg", "<image>\nIs it?", "Yes."),
        entry(None, "How are you?", "Well.", "Why?", "", "And now?", "Better."),
        entry(None, "<image>\nWhat?", "That."),
        entry(None, "Who?", " "),
        entry(None, "Where?", "There."),
    )
    out = tmp_path / "texts"
    assert main(["conversations", "--annotations", f"{tmp_path}/*.json", "--out", str(out), "--workers", "1"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert {"texts read: 3", "texts written: 2", "records read: 5", "records written: 2"} <= set(said)
    assert "  1 x a conversation about an image, such as" in "\n".join(said)
    assert "images" not in "".join(line for line in said if "read" in line or "written" in line)
    texts = open_shards(out, ["conversations"])
    assert [json.loads(data) for data in read_field(texts, "json")] == [
        {
            "dataset_id": "mix",
            "image_id": "1",
            "turns": [
                {"question": "How are you?", "answer": "Well."},
                {"question": "And now?", "answer": "Better."},
            ],
        },
        {"dataset_id": "mix", "image_id": "4", "turns": [{"question": "Where?", "answer": "There."}]},
    ]
    assert texts[0].entries.fields == ["json"]


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    files = [tmp_path / "a/mix.json", tmp_path / "b/mix.json"]
    for file in files:
        file.parent.mkdir()
        file.write_text("[]")
    with pytest.raises(ShardError, match="have the same name"):
        open_corpus(files)
