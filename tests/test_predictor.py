"""A trained model on a photo: the same words as in evaluation, and one line for what cannot work."""

import json
import os
import sys
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from pixel_llm import cli
from pixel_llm.predictor import Predictor
from pixel_llm.weights.checkpoint import find_checkpoint, read_checkpoint
from tests.runs import tiny_trainer
from tests.tiny import toy_narratives


@pytest.fixture(scope="module")
def photo(toy: Path) -> Path:
    return min((toy / "raw/images").rglob("*.jpg"))


@pytest.fixture(scope="module")
def predictor(tiny_run: Path) -> Predictor:
    return Predictor(tiny_run)


def test_a_photo_gets_the_words_of_the_evaluation(toy: Path, tmp_path: Path, predictor: Predictor) -> None:
    data = toy_narratives(toy, max_tokens=24)
    trainer: L.Trainer = tiny_trainer(tmp_path, 1)
    batches = trainer.predict(predictor.task, data, return_predictions=True)
    evaluated = {p.key: p for batch in batches for p in batch}
    source = data.test_dataloader().source
    for position in range(3):
        record = source.record(position)
        expected = next(p for key, p in evaluated.items() if key.split("/")[0] == record["__key__"])
        said = predictor.caption(record["jpg"], "photo")
        assert said.key == "photo"
        assert said.caption == expected.caption
        assert said.score == pytest.approx(expected.score, abs=1e-4)
        boxes = [np.array([word.box for word in p.words]).reshape(-1, 4) for p in (said, expected)]
        np.testing.assert_allclose(*boxes, atol=1e-3)


def test_a_run_and_its_checkpoint_are_the_same(tiny_run: Path, predictor: Predictor) -> None:
    by_file = Predictor(tiny_run / "checkpoints/last.ckpt").task.state_dict()
    saved = torch.load(tiny_run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    for name, value in predictor.task.state_dict().items():
        assert torch.equal(by_file[name], value)
        assert torch.equal(saved[name], value)
    assert not predictor.task.training


def caption(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.delenv("PIXEL_LLM_DEBUG", raising=False)
    monkeypatch.setattr(sys, "argv", ["pixel-llm", "caption", *map(str, arguments)])
    return cli.main()


def test_the_command_writes_picture_and_words(tiny_run: Path, photo: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    out, words = tmp_path / "a.png", tmp_path / "a.json"
    assert caption(monkeypatch, photo, "--checkpoint", tiny_run, "--out", out, "--json", words, "--device", "cpu") == 0
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
        ("/nowhere/a.jpg", tiny_run, "/nowhere/a.jpg"),
        (photo, "/nowhere/run", "no checkpoint at /nowhere/run"),
        (photo, tmp_path / "empty", f"no checkpoint at {tmp_path}/empty"),
        (photo, tmp_path / "text.ckpt", "text.ckpt: not a checkpoint, or a damaged one"),
    ):
        assert caption(monkeypatch, image, "--checkpoint", checkpoint, "--device", "cpu") == 2
        said = capsys.readouterr().err
        assert message in said
        assert len(said.strip().splitlines()) == 1


def test_a_device_that_is_not_here_is_named(tiny_run: Path) -> None:
    for device in ("nonsense", "cuda:99"):
        with pytest.raises(ValueError, match=rf"^device {device}: "):
            Predictor(tiny_run, device)


def test_a_model_that_writes_no_captions_is_named(tiny_run: Path, tmp_path: Path) -> None:
    content = torch.load(tiny_run / "checkpoints/last.ckpt", weights_only=True)
    config = yaml.safe_load(content["config"])
    model = config["model"]["init_args"]
    config["model"] = {
        "class_path": "pixel_llm.tasks.attribute_pretraining.AttributePretraining",
        "init_args": {"core": model["core"], "optimizer": model["optimizer"], "attributes": [2]},
    }
    torch.save(content | {"config": yaml.safe_dump(config)}, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"a\.ckpt: a model of AttributePretraining does not write captions"):
        Predictor(tmp_path / "a.ckpt")


def test_a_checkpoint_cannot_name_a_foreign_class(tiny_run: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    content = torch.load(tiny_run / "checkpoints/last.ckpt", weights_only=True)
    config = yaml.safe_load(content["config"])
    config["model"] = {"class_path": "shutil.rmtree", "init_args": {"path": str(victim)}}
    torch.save(content | {"config": yaml.safe_dump(config)}, tmp_path / "a.ckpt")
    with pytest.raises(Exception, match="not allowed"):
        Predictor(tmp_path / "a.ckpt")
    assert victim.is_dir()


def test_the_newest_checkpoint_of_a_folder_is_found(tmp_path: Path) -> None:
    for age, name in ((20, "old"), (10, "new")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "last.ckpt").touch()
        os.utime(tmp_path / name / "last.ckpt", (1000 - age, 1000 - age))
    assert find_checkpoint(tmp_path) == tmp_path / "new/last.ckpt"
    with pytest.raises(ValueError, match=r"last\.ckpt: not a checkpoint"):
        read_checkpoint(find_checkpoint(tmp_path))
