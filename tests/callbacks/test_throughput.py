"""What is said about a running training: counted by other means, and changing nothing."""

import re
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from callbacks.nan_guard import NanGuard
from callbacks.throughput import StepFlops, Throughput
from datamodules.mixture import MixtureDataModule
from pixel_llm.structures import Batch
from tests.runs import fit, tiny_task
from tests.tiny import toy_narratives


class Read(L.Callback):
    """All metrics that were logged."""

    def __init__(self) -> None:
        self.metrics: dict[str, float] = {}

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self.metrics |= {name: value.item() for name, value in trainer.callback_metrics.items()}


def logged(toy: Path, folder: Path, data: L.LightningDataModule | None = None, **settings: Any) -> dict[str, float]:
    read = Read()
    callbacks = [NanGuard(), Throughput(every_n_steps=2), read]
    fit(tiny_task(), data or toy_narratives(toy), folder, 4, callbacks, **settings)
    return read.metrics


def test_speed_memory_and_gradient_are_logged(toy: Path, tmp_path: Path) -> None:
    metrics = logged(toy, tmp_path)
    speed = {name.removeprefix("speed/"): value for name, value in metrics.items() if name.startswith("speed/")}
    wanted = {"images_per_second", "tokens_per_second", "data_wait", "gflops_per_second", "memory_gb"}
    assert speed.keys() == wanted
    assert 0 <= speed["data_wait"] <= 1
    assert speed["tokens_per_second"] > 4 * speed["images_per_second"] > 0
    assert 0.1 < speed["memory_gb"] < 20
    assert metrics["train/gradient_norm"] > 0
    assert "train/localized_narratives/loss" not in metrics  # of one source, it is the loss


def test_the_operations_are_those_of_the_step(toy: Path) -> None:
    """Against a count of the loss and its gradient, taken apart from any training."""
    task, batch = tiny_task(), next(iter(toy_narratives(toy).train_dataloader()))
    task.log = lambda *_, **__: None  # type: ignore[method-assign]
    with FlopCounterMode(display=False) as counter:
        task.training_step(batch, 0).backward()
    flops = StepFlops()
    for counted in (True, False):  # the second batch of the kind costs what the first one did
        flops.start(task, batch)
        if counted:
            task.training_step(batch, 0).backward()
        assert flops.stop(batch) == counter.get_total_flops() > 10**6
    batch.images = torch.cat([batch.images, batch.images])  # another kind
    flops.start(task, batch)
    assert flops.stop(batch) == 0


def test_watching_changes_nothing(toy: Path, tmp_path: Path) -> None:
    losses, weights = [], []
    for callbacks in ([], [NanGuard(), Throughput(every_n_steps=2)]):
        task = tiny_task(dropout=0.3)
        losses.append(fit(task, toy_narratives(toy), tmp_path, 4, callbacks))
        weights.append(task.state_dict())
    assert losses[0] == losses[1]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_line_can_be_read_in_a_log_file(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logged(toy, tmp_path)
    lines = capsys.readouterr().out.splitlines()
    number = r"[\d.,e+-]+"
    pattern = (
        rf"step (\d)/4, loss {number}, gradient {number}, {number} images/s, {number} tokens/s, {number} GFLOP/s, "
        rf"data wait \d+%, {number} GB, \d:\d\d:\d\d left"
    )
    assert [re.fullmatch(pattern, line).group(1) for line in lines] == ["2", "4"]
    assert lines[-1].endswith("0:00:00 left")


class Clock(L.Callback):
    """Its seconds pass when something happens: 1 for a batch to come, 3 for its step, 100 for a validation."""

    now = 0.0

    def on_train_batch_start(self, *_: Any) -> None:
        self.now += 1

    def on_before_backward(self, *_: Any) -> None:
        self.now += 3

    def on_validation_batch_end(self, *_: Any) -> None:
        self.now += 100


def test_time_that_validation_takes_is_no_wait_for_data(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, read = Clock(), Read()
    monkeypatch.setattr("callbacks.throughput.time", SimpleNamespace(perf_counter=lambda: clock.now))
    settings = {"limit_val_batches": 1, "val_check_interval": 1, "check_val_every_n_epoch": None}
    fit(tiny_task(), toy_narratives(toy), tmp_path, 2, [clock, Throughput(every_n_steps=2), read], **settings)
    assert read.metrics["speed/data_wait"] == pytest.approx(1 / 4)
    assert read.metrics["speed/images_per_second"] == pytest.approx(4 / 4)


def test_a_clock_that_jumps_changes_no_figure(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward by hours and back again, at every look at it."""
    looks = count()
    monkeypatch.setattr("time.time", lambda: 1.8e9 + (-1) ** next(looks) * 1e4)
    metrics = logged(toy, tmp_path)
    assert 0 <= metrics["speed/data_wait"] <= 1
    assert 0.01 < metrics["speed/images_per_second"] < 1e4


def test_each_source_has_its_loss(toy: Path, tmp_path: Path) -> None:
    """Where batches are of one source each, anew for each stretch: here for the last of three."""
    narratives = toy_narratives(toy)
    other = toy_narratives(toy)
    other.name = "other"
    data = MixtureDataModule([narratives, other], [1, 1], batch_size=1, num_workers=0)
    read, seen = Read(), []

    class Sources(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Batch, *_: Any) -> None:
            seen.append((batch.sources[0], outputs["loss"].item() * trainer.accumulate_grad_batches))

    callbacks = [Throughput(every_n_steps=8), read, Sources()]
    fit(tiny_task(), data, tmp_path, 12, callbacks, accumulate_grad_batches=2)
    for source in ("localized_narratives", "other"):
        losses = [loss for name, loss in seen[-8:] if name == source]
        assert losses
        assert read.metrics[f"train/{source}/loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)
