"""Scoring a file of predictions: the figures of a test run, and every way the file can be wrong, in one line."""

import io
import json
import math
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from callbacks.evaluation_report import EvaluationReport
from datamodules.prepare.referring import split_corpus
from datamodules.prepare.referring_corpora import read_referring
from datamodules.prepare.shards import write_shards
from datamodules.records import read_field
from datamodules.referring import ReferringDataModule
from datamodules.shard_index import Manifest, ShardEntry, open_shards, write_index, write_manifest
from pixel_llm import cli
from pixel_llm.coordinates import box_original_px_to_01
from pixel_llm.core.build import pixel_llm
from pixel_llm.core.conv_encoder import ConvEncoder
from pixel_llm.metrics.referring import ReferringMetrics
from pixel_llm.structures import Reference, ReferringPrediction
from pixel_llm.tasks.optimizer import AdamWSchedule
from pixel_llm.tasks.referring_localization import ReferringLocalization
from tests.tiny import tiny_sam_encoder, tiny_t5

HEIGHT, WIDTH = 48, 64
BOXES = [(2, 3, 22, 23), (30, 10, 60, 40), (5, 30, 25, 45)]


def rle(*boxes: tuple[int, int, int, int]) -> dict[str, Any]:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    for x0, y0, x1, y1 in boxes:
        mask[y0:y1, x0:x1] = 1
    return {"size": [HEIGHT, WIDTH], "counts": coco_mask.encode(mask)["counts"].decode()}


def image(split: str, number: int) -> dict[str, Any]:
    """Three objects, each with an expression, one for two of them and one for nothing."""
    targets = [[0], [1], [2], [0, 1], []]
    return {
        "dataset_id": split,
        "image_id": str(number),
        "width": WIDTH,
        "height": HEIGHT,
        "objects": [{"id": str(i), "bbox": list(box), "rle": rle(box)} for i, box in enumerate(BOXES)],
        "expressions": [
            {"id": f"{number}{i}", "text": "it", "targets": meant, "kind": ("", "relation")[i % 2]}
            for i, meant in enumerate(targets)
        ],
    }


def shards(folder: Path, split: str, images: int = 2, kind: str = "referring") -> Path:
    folder.mkdir(parents=True)
    with tarfile.open(folder / "0.tar", "w") as archive:
        for number in range(images):
            data = json.dumps(image(split, number)).encode()
            member = tarfile.TarInfo(f"{number}.json")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    index = write_index(folder / "0.tar")
    write_manifest(folder, Manifest({"kind": kind}, [ShardEntry("0.tar", len(index), index.tar_bytes)]))
    return folder


def lines(path: Path, predictions: list[Any]) -> Path:
    path.write_text("".join(f"{p if isinstance(p, str) else json.dumps(p)}\n" for p in predictions))
    return path


def run(monkeypatch: pytest.MonkeyPatch, predictions: Path, *annotations: Path, out: Path | None = None) -> int:
    arguments = ["--predictions", predictions, "--annotations", *annotations, *(["--json", out] if out else [])]
    monkeypatch.setattr(sys, "argv", ["pixel-llm", "score", "referring", *map(str, arguments)])
    return cli.main()


def truth(split: str = "s", number: int = 0) -> list[dict[str, Any]]:
    """Predictions that are right."""
    content = image(split, number)
    return [
        {
            "key": f"{split}/{expression['id']}",
            "box": BOXES[expression["targets"][0]] if expression["targets"] else None,
            "mask": rle(*(BOXES[i] for i in expression["targets"])),
        }
        for expression in content["expressions"]
    ]


def test_the_figures_are_those_of_the_metric_in_a_test_run(tmp_path, monkeypatch, capsys) -> None:
    rng, metric, predictions = np.random.default_rng(0), ReferringMetrics(), []
    for number in range(2):
        content = image("refcoco_unc_val", number)
        for expression in content["expressions"]:
            key, meant = f"refcoco_unc_val/{expression['id']}", [BOXES[i] for i in expression["targets"]]
            found = tuple(np.add(meant[0] if meant else (0, 0, 9, 9), rng.integers(-2, 6, 4)).tolist())
            moved = [tuple(np.add(box, rng.integers(-2, 3)).tolist()) for box in meant]
            predictions.append({"key": key, "query": "it", "box": found, "mask": rle(*moved), "score": 0.5})
            boxes = [box_original_px_to_01(box, (HEIGHT, WIDTH)) for box in meant]
            reference = Reference(key, "it", split="refcoco_unc_val", kind=expression["kind"], targets=boxes)
            reference.mask = rle(*meant)
            metric.update([reference], [ReferringPrediction(key, "it", found, rle(*moved))], [(HEIGHT, WIDTH)])
    file, out = lines(tmp_path / "p.jsonl", predictions), tmp_path / "figures.json"
    shards(tmp_path / "shards/val", "refcoco_unc_val")
    assert run(monkeypatch, file, tmp_path / "shards", out=out) == 0
    scores, want = json.loads(out.read_text()), metric.compute()
    assert scores.keys() == want.keys()
    assert scores["refcoco_unc_val"] == pytest.approx(want["refcoco_unc_val"], abs=1e-12)
    said = capsys.readouterr()
    assert said.out.splitlines()[1].startswith("refcoco_unc_val")
    assert not said.err


def test_polygons_no_target_and_an_empty_list_of_polygons_count(tmp_path, monkeypatch) -> None:
    x0, y0, x1, y1 = BOXES[0]
    predictions = [
        {"key": "s/00", "mask": [[x0, y0, x1, y0, x1, y1, x0, y1]]},
        {"key": "s/01", "mask": [], "no_target": False},
        {"key": "s/02", "mask": {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}},
        {"key": "s/03", "no_target": True},
        {"key": "s/04", "no_target": True},
    ]
    out = tmp_path / "figures.json"
    assert run(monkeypatch, lines(tmp_path / "p", predictions), shards(tmp_path / "a", "s", 1), out=out) == 0
    figures = json.loads(out.read_text())["s"]
    assert figures["giou"] == pytest.approx(2 / 5)
    assert (figures["n_acc"], figures["t_acc"]) == (1, 2 / 4)
    assert "p50" not in figures  # no prediction has a box
    assert figures["mask_box_p50"] == pytest.approx(1 / 3)


def test_missing_predictions_are_counted_as_misses_and_other_splits_are_left_out(tmp_path, monkeypatch, capsys) -> None:
    shards(tmp_path / "shards/a", "a"), shards(tmp_path / "shards/b", "b", images=1)
    file, out = lines(tmp_path / "p", truth("a")), tmp_path / "figures.json"
    assert run(monkeypatch, file, tmp_path / "shards", out=out) == 0
    assert capsys.readouterr().err == "a: 5 expressions without a prediction, counted as misses\n"
    scores = json.loads(out.read_text())
    assert list(scores) == ["a"]
    assert {value for name, value in scores["a"].items() if not name.startswith("expressions")} == {0.5}
    assert scores["a"]["expressions"] == 10


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ("{", "broken JSON"),
        ("[1]", "not a JSON object where one is expected"),
        ({"box": [0, 0, 1, 1]}, "missing key 'key'"),
        ({"key": "s/99"}, "the annotations have no expression 's/99'"),
        ({"key": "other/00"}, "the annotations have no split 'other' of a key SPLIT/ID, they hold s"),
        ({"key": "s/00"}, "a second prediction for 's/00', after line 1"),
        ({"key": "s/01", "box": [0, math.nan, 1, 1]}, "'box' is not a finite number"),
        ({"key": "s/01", "box": [0, 0, "1", 1]}, "'box' is not a number"),
        ({"key": "s/01", "box": [0, 0, 1]}, "'box' does not hold four numbers"),
        ({"key": "s/01", "box": [5, 0, 4, 1]}, "'box' has x1 < x0 or y1 < y0: is it x y width height?"),
        ({"key": "s/01", "mask": {"size": [64, 48], "counts": rle()["counts"]}}, "run lengths of another size"),
        ({"key": "s/01", "mask": {"size": [HEIGHT, WIDTH], "counts": [1]}}, "run lengths that do not fill the image"),
        ({"key": "s/01", "mask": [[1, 2, 3, 4]]}, "a polygon of fewer than three points"),
        ({"key": "s/01", "mask": "mask.png"}, "'segmentation' is neither polygons nor run lengths"),
        ({"key": "s/01", "no_target": "yes"}, "'no_target' is neither true nor false"),
    ],
)
def test_a_wrong_line_is_named_in_one_line(tmp_path, monkeypatch, capsys, changed: Any, reason: str) -> None:
    file = lines(tmp_path / "p.jsonl", [truth()[0], "", changed])
    assert run(monkeypatch, file, shards(tmp_path / "a", "s")) == 2
    said = capsys.readouterr()
    assert said.err.strip().startswith(f"error: {file}:3: {reason}")
    assert len(said.err.strip().splitlines()) == 1
    assert not said.out


def test_annotations_that_cannot_be_used_are_one_line(tmp_path, monkeypatch, capsys) -> None:
    file, good = lines(tmp_path / "p.jsonl", truth()), shards(tmp_path / "a", "s")
    other = shards(tmp_path / "b", "s", kind="coco-captions")
    for annotations, reason in (
        ([tmp_path / "nowhere"], "nowhere"),
        ([other], f"{other} holds coco-captions, where referring is needed"),
        ([good, good], "the annotations have two expressions 's/00'"),
        ([file], f"{file}:1: missing key 'image'"),
    ):
        assert run(monkeypatch, file, *annotations) == 2
        said = capsys.readouterr().err.strip()
        assert said.startswith("error: ")
        assert reason in said
        assert len(said.splitlines()) == 1


def test_a_file_without_predictions_is_one_line(tmp_path, monkeypatch, capsys) -> None:
    assert run(monkeypatch, lines(tmp_path / "p.jsonl", []), shards(tmp_path / "a", "s")) == 2
    assert capsys.readouterr().err.strip() == f"error: {tmp_path}/p.jsonl: no predictions"


def test_boxes_that_are_shares_of_the_image_are_one_line(tmp_path, monkeypatch, capsys) -> None:
    file = lines(tmp_path / "p.jsonl", [{"key": "s/00", "box": [0, 0.1, 0.5, 1]}, {"key": "s/01", "no_target": True}])
    assert run(monkeypatch, file, shards(tmp_path / "a", "s")) == 2
    said = capsys.readouterr().err.strip()
    assert said == f"error: {file}: all boxes lie within [0, 1]: give pixels of the original image"


def test_raw_annotations_score_as_the_shards_made_from_them(toy, tmp_path, monkeypatch, capsys) -> None:
    raw, predictions = [toy / "raw/annotations/toy", toy / "raw/annotations/toy_grefcoco"], []
    for split in read_referring(raw):
        folder = tmp_path / "shards" / split.name
        write_shards(split_corpus(split, toy / "raw/images"), toy / "raw/images", folder, workers=1, shard_size=10)
        for data in read_field(open_shards(folder), "json"):
            content = json.loads(data)
            for expression in content["expressions"]:
                meant = [content["objects"][i] for i in expression["targets"]]
                prediction = {"box": meant[0]["bbox"], "mask": meant[0]["rle"]} if meant else {"no_target": True}
                predictions.append({"key": f"{split.name}/{expression['id']}", **prediction})
    file = lines(tmp_path / "p.jsonl", predictions)
    assert run(monkeypatch, file, tmp_path / "shards", out=tmp_path / "shards.json") == 0
    assert run(monkeypatch, file, *raw, out=tmp_path / "raw.json") == 0
    scores = json.loads((tmp_path / "shards.json").read_text())
    assert scores == json.loads((tmp_path / "raw.json").read_text())
    assert sum(figures["expressions"] for figures in scores.values()) == len(predictions)
    assert "without a prediction" not in capsys.readouterr().err
    for figures in scores.values():
        assert (figures["p90"], figures["mask_box_p50"]) == (1, 1)
        assert figures.get("n_acc", 1) == 1


def test_a_test_run_scored_again_from_its_files_gives_its_figures(toy, tmp_path, monkeypatch, capsys) -> None:
    for split in read_referring([toy / "raw/annotations/toy"]):
        write_shards(split_corpus(split), toy / "raw/images", tmp_path / split.name, workers=1, shard_size=10)
    core = pixel_llm(
        tiny_sam_encoder(), ConvEncoder(width=16, stride=8, blocks=1, heads=2), tiny_t5(),
        extractor_width=16, extractor_heads=2, extractor_mlp=32, query_tokens=4, location_hidden=16,
        location_depth=2, mask_adapter="embedding", mask_decoder_depth=1, mask_decoder_heads=2,
    )  # fmt: skip
    task = ReferringLocalization(core, AdamWSchedule(), segment=True)
    data = ReferringDataModule(
        train_shards=[], val_shards=[], test_shards=[str(tmp_path / "toy_unc_test")],
        tokenizer=str(toy / "tokenizer"), image_size=64, batch_size=4, num_workers=0,
    )  # fmt: skip
    trainer = L.Trainer(
        accelerator="cpu", logger=False, callbacks=[EvaluationReport()], default_root_dir=tmp_path / "run",
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    trainer.test(task, data, verbose=False)
    logged = json.loads((tmp_path / "run/test.json").read_text())
    assert run(monkeypatch, tmp_path / "run/test.jsonl", tmp_path / "toy_unc_test", out=tmp_path / "again.json") == 0
    again = json.loads((tmp_path / "again.json").read_text())["toy_unc_test"]
    own = {name.removeprefix("toy_unc_test/"): value for name, value in logged.items() if "toy_unc_test/" in name}
    assert again == pytest.approx(own, abs=1e-6)  # the log holds float32
    assert {"p50", "ciou", "p50_relation"} <= again.keys()


def test_the_command_starts_without_torch() -> None:
    code = "import sys, pixel_llm.score; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
