"""`pixel-llm prepare features`: from a training configuration to a training that reads what it wrote."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonargparse
import pytest
import torch

from pixel_llm import cli
from tests.runs import CORE, tiny_config, tiny_dialogues_config, tiny_joint_config, write_config
from tests.tiny import tiny_core

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _settings():
    """The parser's settings as they were."""
    yield
    jsonargparse.set_parsing_settings(import_path_denylist=[], import_path_allowlist=[])


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """run(*arguments) -> exit code, standard output, standard error of `pixel-llm`."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["pixel-llm", *map(str, arguments)])
        try:
            code = cli.main()
        except SystemExit as exit:
            code = exit.code
        said = capfd.readouterr()
        return code, said.out, said.err

    return call


def losses(run_folder: Path) -> list[str]:
    header, *rows = [line.split(",") for line in (run_folder / "metrics.csv").read_text().splitlines()]
    return [row[header.index("train/loss")] for row in rows if row[header.index("train/loss")]]


@pytest.mark.slow
def test_a_training_without_its_encoder(toy: Path, tmp_path: Path, run: Run) -> None:
    config = write_config(tmp_path / "config.yaml", tiny_config(toy, tmp_path / "run", steps=3))
    out = tmp_path / "features"
    code, said, _ = run("prepare", "features", "--config", config, "--out", out)
    assert code == 0
    assert "images encoded: 36\n" in said
    assert said.endswith(f"features in {out}\n")
    assert "images encoded: 0\n" in run("prepare", "features", "--config", config, "--out", out)[1]
    found = {}
    for name, more in {"encoded": [], "cached": ["--data.features", out]}.items():
        change = ["--trainer.logger.init_args.save_dir", tmp_path / name]
        assert run("fit", "--config", config, *change, *more)[0] == 0
        found[name] = [float(loss) for loss in losses(tmp_path / name)]
    assert len(found["cached"]) == 3
    assert found["cached"] == pytest.approx(found["encoded"], rel=2**-8)


@pytest.mark.slow
def test_a_mixture_in_two_parts_with_changes(toy: Path, tmp_path: Path, run: Run) -> None:
    """Its three sources are of the same pictures, which one training of joint kind needs once."""
    config = write_config(tmp_path / "config.yaml", tiny_joint_config(toy, tmp_path / "run"))
    made = ["prepare", "features", "--config", config, "--out", tmp_path / "features", "--data.batch_size", 5]
    encoded = 0
    for part in (0, 1):
        code, said, _ = run(*made, "--part", part, "--of", 2)
        assert code == 0
        encoded += int(said.split("images encoded: ")[1].split()[0])
    assert encoded == 36
    assert run("fit", "--config", config, "--data.features", tmp_path / "features")[0] == 0


def teachers_config(toy: Path, folder: Path) -> dict[str, Any]:
    """A single transformer that learns from both encoders of a PixelLLM's checkpoint."""
    weights = {f"core.{name}": value for name, value in tiny_core().state_dict().items()}
    torch.save({"state_dict": weights}, folder / "a.ckpt")
    config = tiny_dialogues_config(toy, folder / "run", steps=3)

    def teacher(part: str) -> dict[str, Any]:
        settings = {"encoder": CORE[part], "checkpoint": str(folder / "a.ckpt"), "part": part}
        return {"class_path": "pixel_llm.pixel_sail.teachers.TrainedEncoder", "init_args": settings}

    config["model"]["init_args"]["distillation"] = {
        "class_path": "pixel_llm.pixel_sail.distillation.Distillation",
        "init_args": {"states_teacher": teacher("sam_encoder"), "masks_teacher": teacher("tuned_encoder")},
    }
    return config


@pytest.mark.slow
def test_a_distillation_without_its_teachers(toy: Path, tmp_path: Path, run: Run) -> None:
    """One command for one teacher, one for those that are left; only images of the training are encoded."""
    config, out = write_config(tmp_path / "config.yaml", teachers_config(toy, tmp_path)), tmp_path / "features"
    made = ["prepare", "features", "--config", config, "--out", out]
    assert "--encoder sam2: this training has sam_encoder, tuned_encoder" in run(*made, "--encoder", "sam2")[2]
    assert run(*made, "--encoder", "tuned_encoder")[1].startswith("tuned_encoder:\n")
    said = run(*made)[1]
    assert said.count("images encoded: 24\n") == said.count("images encoded: 0\n") == 1
    found = {}
    for name, more in {"online": [], "cached": ["--data.features", out]}.items():
        change = ["--trainer.logger.init_args.save_dir", tmp_path / name]
        assert run("fit", "--config", config, *change, *more)[0] == 0
        found[name] = [float(loss) for loss in losses(tmp_path / name)]
    assert found["cached"] == pytest.approx(found["online"], rel=2**-8)


def put(config: dict[str, Any], path: str, value: object) -> None:
    *parents, last = path.split(".")
    for name in parents:
        config = config[name]
    config[last] = value


SAM = CORE["sam_encoder"]
RANDOM = {**SAM, "init_args": {**SAM["init_args"], "drop_path": 0.5}}  # type: ignore[dict-item]
REFUSED = {
    "images change": ("data.init_args.flip_probability", 0.5, "flip_probability 0.5 changes the images"),
    "the encoder is random": (
        "model.init_args.core.init_args",
        {**CORE, "sam_encoder": RANDOM},
        "sam_encoder drops paths at random in training (drop_path 0.5), though it is frozen",
    ),
    "no shards": ("data.init_args.test_shards", ["/nowhere"], "no folder of shards at /nowhere"),
    "no weights": (
        "model.init_args.weights",
        {"class_path": "pixel_llm.weights.start.StartingWeights", "init_args": {"sam": "/nowhere/sam.pth"}},
        "/nowhere/sam.pth: no such file; it is the starting weights' 'sam'",
    ),
    "a typo": ("data.init_args.image_siz", 64, "image_siz"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_computed_beforehand_is_said_in_one_line(
    toy: Path, tmp_path: Path, run: Run, name: str
) -> None:
    path, value, message = REFUSED[name]
    config = tiny_config(toy, tmp_path / "run")
    put(config, path, value)
    file = write_config(tmp_path / "config.yaml", config)
    code, _, said = run("prepare", "features", "--config", file, "--out", tmp_path / "features")
    assert code == 2
    assert message in said
    assert "Traceback" not in said
    assert not (tmp_path / "features").exists()


def test_arguments_are_checked(toy: Path, tmp_path: Path, run: Run) -> None:
    assert "required: --config, --out" in run("prepare", "features")[2]
    config = write_config(tmp_path / "config.yaml", tiny_config(toy, tmp_path / "run"))
    for part, of in ((2, 2), (-1, 2), (0, 0)):
        code, _, said = run("prepare", "features", "--config", config, "--out", tmp_path, "--part", part, "--of", of)
        assert (code, "--part" in said or "--of" in said) == (2, True)


def test_a_training_without_the_features_that_it_names_does_not_begin(toy: Path, tmp_path: Path, run: Run) -> None:
    config = write_config(tmp_path / "config.yaml", tiny_config(toy, tmp_path / "run"))
    code, _, said = run("fit", "--config", config, "--data.features", "/nowhere")
    assert code == 2
    assert "no features in /nowhere: run `pixel-llm prepare features --config CONFIG --out /nowhere`" in said
