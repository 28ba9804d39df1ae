"""`pixel-llm plan` on whole configurations."""

import re
from pathlib import Path

import pytest

from pixel_llm.planning import command
from pixel_llm.planning.command import split_batch
from pixel_llm.predictor import build_task
from tests.runs import tiny_config, tiny_dialogues_config, tiny_joint_config, write_config


def test_a_configuration_is_planned(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny_config(toy, tmp_path, steps=-1)
    config["trainer"] |= {"max_epochs": 3, "precision": "bf16-mixed"}
    file = write_config(tmp_path / "config.yaml", config)
    arguments = ["--config", str(file), "--gpus", "2", "--data.batch_size", "4", "--dollars-per-gpu-hour", "3600"]
    command.main(arguments)
    said = capsys.readouterr().out
    task = build_task(config["model"])
    trained = sum(p.numel() for p in task.parameters() if p.requires_grad)
    assert f"{trained / 1e6:,.1f} M of them trained" in said
    assert "4 images of 64 pixels x 1 accumulated x 2 GPUs = 8" in said
    assert "3 epochs of 24 images, 9 steps" in said  # counted in the shards
    assert {"DDP", "FSDP/2"} <= set(said.split())
    assert len(re.findall("first bottleneck: (arithmetic|exchange|decoding|reading)", said)) == 2


def test_a_mixture_is_planned(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each source has its share, and a part of the joint model that it trains."""
    file = write_config(tmp_path / "config.yaml", tiny_joint_config(toy, tmp_path, steps=100))
    command.main(["--config", str(file), "--gpus", "1"])
    said = capsys.readouterr().out
    for source in ("localized_narratives", "referring", "regions"):
        assert f"{source} (33%)" in said
    assert "stage: 100 steps" in said


def test_a_single_transformer_is_planned_with_its_teachers(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of sizes that are known without their files; repeats are of the images that are here."""
    config = tiny_dialogues_config(toy, tmp_path, steps=100)
    del config["data"]["init_args"]["weights"]
    config["data"]["init_args"]["repeats"] = [3, 1]
    file = write_config(tmp_path / "config.yaml", config)
    command.main(["--config", str(file), "--gpus", "1"])
    alone = capsys.readouterr().out
    assert "referring_dialogues (75%): 5 prompts" in alone
    assert "region_dialogues (25%): 5 prompts" in alone
    source = {"source": "facebook/sam2.1-hiera-large"}
    teacher = {"class_path": "pixel_llm.pixel_sail.teachers.Sam2Teacher", "init_args": source}
    config["model"]["init_args"]["distillation"] = {
        "class_path": "pixel_llm.pixel_sail.distillation.Distillation", "init_args": {"states_teacher": teacher},
    }  # fmt: skip
    command.main(["--config", str(write_config(tmp_path / "taught.yaml", config)), "--gpus", "1"])
    taught = capsys.readouterr().out

    def forward(said: str) -> float:
        return float(re.search(r"forward ([0-9.e+-]+) TFLOP", said)[1])

    assert forward(taught) - forward(alone) == pytest.approx(4 * 1.82, rel=0.02)  # TFLOP of an image of its own size


def test_features_made_before_and_activation_checkpointing_are_reckoned_with(toy: Path, tmp_path: Path) -> None:
    config = command.read_config(["--config", str(write_config(tmp_path / "config.yaml", tiny_config(toy, tmp_path)))])

    def planned(said: str) -> float:
        report = command.plan(config, 1, "h100", command.Rates(), None, None)
        return float(re.search(rf"{said} +([0-9.e-]+)", "\n".join(report))[1])

    forward, backward = planned("forward"), planned("backward")
    config["data"]["init_args"]["features"] = "runs/features"
    assert planned("forward") < forward
    config["trainer"]["callbacks"] = [{"class_path": "callbacks.activation_checkpointing.ActivationCheckpointing"}]
    assert planned("backward") > backward


def test_a_global_batch_is_kept() -> None:
    assert split_batch(8, 4, 8, None).total == 256
    sizes = {gpus: split_batch(8, 4, gpus, 256) for gpus in (8, 16, 64)}
    assert {gpus: (b.images, b.accumulated) for gpus, b in sizes.items()} == {8: (8, 4), 16: (8, 2), 64: (4, 1)}
    with pytest.raises(ValueError, match="a global batch of 100 cannot be made of 64 GPUs with batches of 8"):
        split_batch(8, 1, 64, 100)


def test_a_wrong_key_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["--config", "configs/trace/toy.yaml", "--data.batch_sise", "4"])
    assert "batch_sise" in capsys.readouterr().err
