"""`pixel-llm score perbench`: the figures of the metric, from shards and raw files, and one line for what is wrong."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from datamodules.prepare.command import main as prepare
from pixel_llm import cli
from pixel_llm.metrics.perbench import PerBenchMetrics
from pixel_llm.structures import AnswerPrediction, Reference
from tests.datamodules.formats.test_perbench import HEIGHT, WIDTH, files, rle, write

PREDICTIONS: list[dict[str, Any]] = [
    {"key": "bench/description/0", "answer": "A blue mug."},
    {"key": "bench/description/1", "answer": "<Prompt0>: A dog."},
    {"key": "bench/choice/0", "answer": "A. red B. blue"},
    {"key": "bench/choice/1", "answer": "A dog."},
    {"key": "bench/segmentation/0", "answer": "It is [SEG].", "masks": [rle(0, 0, 2, 1)], "forced_masks": []},
]


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    return write(tmp_path / "bench", files())


def lines(path: Path, predictions: list[Any]) -> Path:
    path.write_text("".join(f"{p if isinstance(p, str) else json.dumps(p)}\n" for p in predictions))
    return path


def run(monkeypatch: pytest.MonkeyPatch, predictions: Path, annotations: Path, *more: object) -> int:
    arguments = ["--predictions", predictions, "--annotations", annotations, *more]
    monkeypatch.setattr(sys, "argv", ["pixel-llm", "score", "perbench", *map(str, arguments)])
    return cli.main()


def figures(out: Path) -> dict[str, float]:
    content = json.loads(out.read_text())
    assert content["protocol"].startswith("PerBench")
    [(split, found)] = content["scores"].items()
    assert split == "bench"
    return found


def test_the_figures_are_those_of_the_metric(bench, tmp_path, monkeypatch, capsys) -> None:
    out = tmp_path / "figures.json"
    file = lines(tmp_path / "p.jsonl", PREDICTIONS)
    assert run(monkeypatch, file, bench, "--mode", "paper", "--json", out) == 0
    metric = PerBenchMetrics("paper")
    truths = [
        Reference("bench/description/0", "A mug.", kind="description"),
        Reference("bench/description/1", "A cat.", kind="description"),
        Reference("bench/choice/0", "B. blue", kind="choice", options=["red", "blue"]),
        Reference("bench/choice/1", "a dog", kind="choice"),
        Reference("bench/segmentation/0", "", kind="segmentation", masks=[rle(0, 0, 2, 2), rle(0, 0, 0, 0)]),
    ]
    answers = [
        AnswerPrediction(p["key"], p["answer"], p.get("masks", []), p.get("forced_masks", [])) for p in PREDICTIONS
    ]
    metric.update(truths, answers)
    found = figures(out)
    assert found == pytest.approx(metric.compute()["bench"], abs=1e-12)
    assert found["accuracy"] == 0.5  # the right answer is among all that is listed; "a dog" is not in "A dog."
    assert (found["ciou"], found["giou"]) == (0.5, pytest.approx(0.25, abs=1e-6))
    said = capsys.readouterr()
    assert "overall_meteor_nltk_no_synonyms" in said.out.splitlines()[0]
    assert "as published" in said.out
    assert not said.err


def test_shards_score_as_the_files_they_are_made_from(bench, tmp_path, monkeypatch) -> None:
    (tmp_path / "images/p").mkdir(parents=True)
    for name in ("1.jpg", "p/2.jpg"):
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "images" / name)
    sources = ["--annotations", str(bench), "--images", str(tmp_path / "images"), "--workers", "1"]
    assert prepare(["perbench", *sources, "--out", str(tmp_path / "shards/bench")]) == 0
    file = lines(tmp_path / "p.jsonl", PREDICTIONS)
    for number, annotations in enumerate((bench, tmp_path / "shards", tmp_path / "shards/bench")):
        assert run(monkeypatch, file, annotations, "--mode", "paper", "--json", tmp_path / f"{number}.json") == 0
        assert figures(tmp_path / f"{number}.json") == figures(tmp_path / "0.json")


def test_strict_is_the_default_and_tasks_that_are_not_named_are_left_out(bench, tmp_path, monkeypatch, capsys) -> None:
    out = tmp_path / "figures.json"
    assert run(monkeypatch, lines(tmp_path / "p", PREDICTIONS[3:]), bench, "--json", out) == 0
    assert capsys.readouterr().err == "bench/choice: 1 questions without a prediction, counted as nothing answered\n"
    found = figures(out)
    assert found == {
        "choices": 2, "accuracy": 0.5, "segmentations": 1,
        "ciou": 0.5, "giou": pytest.approx(0.75), "ciou_union": 0.5, "giou_union": 0.5, "without_mask": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"key": "bench/choice/7", "answer": "A"}, "the annotations have no question 'bench/choice/7'"),
        ({"key": "other/choice/0", "answer": "A"}, "the annotations have no split 'other' of a key SPLIT/ID"),
        ({"key": "bench/choice/0"}, "missing key 'answer'"),
        ({"key": "bench/description/0", "answer": 3}, "'answer' is not a string"),
        ({"key": "bench/choice/1", "answer": "A"}, "a second prediction for 'bench/choice/1', after line 1"),
        ({"key": "bench/segmentation/0", "answer": "It is [SEG]."}, "missing key 'masks'"),
        (
            {"key": "bench/segmentation/0", "masks": [rle(0, 0, 1, 1, width=9)]},
            "run lengths of another size than the image",
        ),
        ({"key": "bench/segmentation/0", "masks": [], "forced_masks": 1}, "'forced_masks' is not a list"),
    ],
)
def test_a_wrong_line_is_named_in_one_line(bench, tmp_path, monkeypatch, capsys, changed: Any, reason: str) -> None:
    file = lines(tmp_path / "p.jsonl", [PREDICTIONS[3], "", changed])
    assert run(monkeypatch, file, bench) == 2
    said = capsys.readouterr()
    assert said.err.strip().startswith(f"error: {file}:3: {reason}")
    assert len(said.err.strip().splitlines()) == 1
    assert not said.out


def test_annotations_that_are_none_are_one_line(bench, tmp_path, monkeypatch, capsys) -> None:
    file = lines(tmp_path / "p.jsonl", PREDICTIONS)
    for annotations, reason in (
        (tmp_path / "nowhere", f"{tmp_path}/nowhere: neither a folder of shards nor one of PerBench's files"),
        (tmp_path, f"{tmp_path}: PerBench is three files"),
    ):
        assert run(monkeypatch, file, annotations) == 2
        assert capsys.readouterr().err.strip().startswith(f"error: {reason}")
