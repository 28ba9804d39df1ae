"""A training is one and the same however it is cut: repeated, resumed, killed, or spread over two processes."""

import json
import signal
import time
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from tests.runs import command, fit, start, tiny_config, tiny_task, write_config
from tests.tiny import toy_narratives

Weights = dict[str, Tensor]


def same(one: Weights, other: Weights) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def weights_of(path: Path) -> Weights:
    return torch.load(path, weights_only=True)["state_dict"]


def test_the_same_seed_gives_the_same_training(toy: Path, tmp_path: Path) -> None:
    losses = []
    for draws in (0, 100):
        task = tiny_task(dropout=0.3)
        torch.rand(draws)  # another random state to begin with
        losses.append(fit(task, toy_narratives(toy), tmp_path, 4))
    assert losses[0] == losses[1]
    assert fit(tiny_task(dropout=0.0), toy_narratives(toy), tmp_path, 4) != losses[0]


def test_bfloat16_trains_with_clipped_gradients_as_float32_but_for_rounding(toy: Path, tmp_path: Path) -> None:
    """The precision of all configurations for GPUs."""
    one, other = (
        fit(tiny_task(), toy_narratives(toy), tmp_path, 4, precision=precision, gradient_clip_val=1.0)
        for precision in ("32-true", "bf16-mixed")
    )
    assert one != other
    assert other == pytest.approx(one, rel=0.02)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_resumed_training_goes_on_as_if_nothing_had_been(toy: Path, tmp_path: Path, workers: int) -> None:
    """Six steps are an epoch; it stops within the first one, at its end, and within the second one."""
    save = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    whole = tiny_task(dropout=0.3)
    losses = fit(whole, toy_narratives(toy, num_workers=workers), tmp_path, 9, [save], enable_checkpointing=True)
    for stop in (2, 6, 7):
        task = tiny_task(dropout=0.3)
        data = toy_narratives(toy, num_workers=workers)
        assert fit(task, data, tmp_path, 9, ckpt_path=tmp_path / f"step={stop}.ckpt") == losses[stop:]
        assert same(task.state_dict(), whole.state_dict())


@pytest.mark.slow
def test_a_killed_training_goes_on(toy: Path, tmp_path: Path) -> None:
    """SIGKILL while it trains and writes checkpoints; `--ckpt_path last` ends with the weights of a quiet run."""

    def config(name: str) -> Path:
        return write_config(tmp_path / f"{name}.yaml", tiny_config(toy, tmp_path / name, steps=30))

    assert command("fit", "--config", config("quiet")).returncode == 0
    last = tmp_path / "killed/checkpoints/last.ckpt"
    process = start("fit", "--config", config("killed"))
    deadline = time.monotonic() + 120
    while not last.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    step = torch.load(last, weights_only=True)["global_step"]
    assert 0 < step < 30
    done = command("fit", "--config", tmp_path / "killed.yaml", "--ckpt_path", "last")
    assert done.returncode == 0, done.stderr
    assert same(weights_of(last), weights_of(tmp_path / "quiet/checkpoints/last.ckpt"))


class Record(L.Callback):
    """Writes losses of all steps, and the gradient of the first one, of this process."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.losses, self.gradient = folder, [], {}

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: Any) -> None:
        self.losses.append(outputs["loss"].item())

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if not self.gradient:
            self.gradient = {n: p.grad.clone() for n, p in pl_module.named_parameters() if p.grad is not None}

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        content = {"losses": self.losses, "gradient": self.gradient}
        torch.save(content, self.folder / f"{trainer.world_size}_{trainer.global_rank}.pt")


@pytest.mark.slow
@pytest.mark.parametrize("normalisation", ["joint", "separate"])
def test_two_processes_train_as_one(toy: Path, tmp_path: Path, normalisation: str) -> None:
    for processes in (1, 2):
        data = toy_narratives(toy, batch_size=4 // processes)
        strategy = "ddp_spawn" if processes == 2 else "auto"
        task = tiny_task(normalisation=normalisation)
        fit(task, data, tmp_path, 5, [Record(tmp_path)], devices=processes, strategy=strategy)
    one = torch.load(tmp_path / "1_0.pt")
    two = [torch.load(tmp_path / f"2_{rank}.pt") for rank in (0, 1)]
    mean = (torch.tensor(two[0]["losses"]) + torch.tensor(two[1]["losses"])) / 2
    assert two[0]["losses"] != two[1]["losses"]
    torch.testing.assert_close(mean, torch.tensor(one["losses"]), atol=1e-5, rtol=1e-5)
    assert same(two[0]["gradient"], two[1]["gradient"])
    torch.testing.assert_close(two[0]["gradient"], one["gradient"], atol=1e-6, rtol=1e-5)


@pytest.mark.slow
def test_two_processes_test_as_one(toy: Path, tmp_path: Path) -> None:
    """Figures and predictions of a trained model on six images, in batches of 4 and of 2 x 2."""
    config = tiny_config(toy, tmp_path / "run", steps=2)
    for callback in ("evaluation_report.EvaluationReport", "trace_pictures.TracePictures"):
        config["trainer"]["callbacks"].append({"class_path": f"callbacks.{callback}"})
    file = write_config(tmp_path / "config.yaml", config)
    assert command("fit", "--config", file).returncode == 0
    both = ["--trainer.devices", 2, "--trainer.strategy", "ddp", "--data.init_args.batch_size", 2]
    found = []
    for more in ([], both):
        done = command("test", "--config", file, "--ckpt_path", "last", *more)
        assert done.returncode == 0, done.stderr
        figures = json.loads((tmp_path / "run/test.json").read_text())
        found.append((figures, (tmp_path / "run/test.jsonl").read_text().splitlines()))
    (one, its_lines), (two, their_lines) = found
    assert {"lbm_k0", "lbm_k1", "point_l1", "object_words_inside", "cider"} <= one.keys()
    assert two == pytest.approx(one, abs=1e-6)
    assert len(its_lines) == len(their_lines) == 6
    captions = [[json.loads(line)["caption"] for line in lines] for lines in (its_lines, their_lines)]
    assert captions[0] == captions[1]
