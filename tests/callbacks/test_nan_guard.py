"""A loss or gradient that is no number, or explodes, stops all processes and leaves a file that repeats the step."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import yaml
from torch import nn
from torch.utils._pytree import tree_flatten

from callbacks.nan_guard import REPLAY, NanGuard, gradient_norm
from pixel_llm import replay
from pixel_llm.predictor import build_task
from pixel_llm.structures import Batch
from pixel_llm.tasks.base import Task
from pixel_llm.weights.checkpoint import read_checkpoint
from tests.runs import Losses, fit, tiny_config, tiny_task
from tests.tiny import toy_narratives, toy_referring


class Poison(L.Callback):
    """Makes a pixel of one batch, counted from 0, infinite in one process."""

    def __init__(self, batch: int, rank: int = 0) -> None:
        self.batch, self.rank, self.keys = batch, rank, []

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        if batch_idx == self.batch and trainer.global_rank == self.rank:
            batch.images = batch.images.float()
            batch.images[0, 0, 0, 0] = float("inf")
            self.keys = batch.keys


class Configured(L.Callback):
    """Puts a configuration into checkpoints, as the command line does."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.text = yaml.safe_dump(config)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["config"] = self.text


class Factor(nn.Module):
    """1 in the forward pass; its gradient is what it is told."""

    def __init__(self, gradient: float) -> None:
        super().__init__()
        self.gradient = gradient

    def forward(self, loss: torch.Tensor) -> torch.Tensor:
        loss = loss.clone()
        loss.register_hook(lambda gradient: gradient * self.gradient)
        return loss


class Scripted(L.Callback):
    """Lets a task's loss be multiplied at certain batches."""

    def __init__(self, factors: dict[int, float], gradient: float = 1.0) -> None:
        self.factors, self.factor = factors, Factor(gradient)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        step = pl_module.training_step

        def scripted(batch: Batch, batch_idx: int) -> torch.Tensor:
            return self.factor(step(batch, batch_idx) * self.factors.get(trainer.fit_loop.total_batch_idx, 1.0))

        pl_module.training_step = scripted  # type: ignore[method-assign]


def test_a_poisoned_batch_stops_and_can_be_replayed(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_config(toy, tmp_path)
    torch.manual_seed(0)
    task = build_task(config["model"])
    poison, losses = Poison(2), Losses()
    before: dict[str, torch.Tensor] = {}

    class Keep(L.Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            before.update({name: value.clone() for name, value in task.state_dict().items()})

    callbacks = [poison, NanGuard(), losses, Keep(), Configured(config)]
    with pytest.raises(ValueError, match=r"^the loss is nan at step 3, on the samples ") as error:
        fit(task, toy_narratives(toy), tmp_path, 6, callbacks)
    file = tmp_path / "checkpoints/replay_step_000003.ckpt"
    assert len(str(error.value).splitlines()) == 1
    assert ", ".join(poison.keys) in str(error.value)
    assert str(error.value).endswith("step_000003.ckpt")
    assert len(losses.values) == 2
    saved = read_checkpoint(file)
    assert all(torch.equal(before[name], value) for name, value in saved["state_dict"].items())

    replay.main([str(file)])
    said = capsys.readouterr().out
    assert "of the batch are not finite: images" in said
    assert "first module with an output that is not finite: core.sam_encoder.patch_embed.proj (Conv2d)" in said
    assert "loss: nan (train/loss nan, train/words nan, train/locations_px nan)" in said
    assert ", ".join(poison.keys) in said
    assert len(said.splitlines()) < 12


def test_the_loss_of_a_step_is_repeated(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With dropout, behind some steps: the same number, to the digits that are printed."""
    config = tiny_config(toy, tmp_path)
    task = build_task(config["model"])
    kept = Losses()
    guard = NanGuard(explosion=None)
    callbacks = [guard, Configured(config), Scripted({}, gradient=float("nan"))]
    with pytest.raises(ValueError, match=r"^the gradient's norm is nan at step 1, on the samples "):
        fit(task, toy_narratives(toy), tmp_path / "nan", 1, callbacks)
    fit(build_task(config["model"]), toy_narratives(toy), tmp_path, 1, [kept])
    saved = read_checkpoint(tmp_path / "nan/checkpoints/replay_step_000001.ckpt")
    fresh = build_task(config["model"])
    fresh.load_state_dict(saved["state_dict"])
    one = Losses()
    fit(fresh, toy_narratives(toy), tmp_path, 1, [one])
    replay.main([str(tmp_path / "nan/checkpoints/replay_step_000001.ckpt")])
    said = capsys.readouterr().out
    assert f"loss: {one.values[0]:.6g} (" in said
    assert "first module with an output that is not finite: none" in said
    assert "gradients that are not finite: 0 of " in said


def test_all_batches_of_an_accumulated_gradient_are_kept(toy: Path, tmp_path: Path) -> None:
    callbacks = [NanGuard(), Scripted({}, gradient=float("inf"))]
    with pytest.raises(ValueError, match=r"^the gradient's norm is (nan|inf) at step 1"):
        fit(tiny_task(), toy_narratives(toy, batch_size=2), tmp_path, 1, callbacks, accumulate_grad_batches=3)
    content = torch.load(tmp_path / "checkpoints/replay_step_000001.ckpt", weights_only=True)
    (found,) = content[REPLAY]["found"]
    assert [number for number, _ in found["batches"]] == [0, 1, 2]
    assert len({key for _, batch in found["batches"] for key in batch["keys"]}) == 6


def test_an_explosion_is_told_from_a_bad_batch(toy: Path, tmp_path: Path) -> None:
    factors = {21: 30.0, 24: 1e4}  # of the loss, by batch
    with pytest.raises(ValueError, match=r"more than 100 times its recent median of .* at step 25"):
        fit(tiny_task(), toy_narratives(toy), tmp_path, 30, [NanGuard(), Scripted(factors)])


def test_the_gradient_is_measured_before_it_is_clipped(toy: Path, tmp_path: Path) -> None:
    """Over all micro-batches of a step, as torch measures it."""
    seen: list[tuple[float, float]] = []

    class Measure(L.Callback):
        def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
            wanted = torch.cat([p.grad.flatten() for p in pl_module.parameters() if p.grad is not None]).norm()
            seen.append((trainer.callback_metrics["train/gradient_norm"].item(), wanted.item()))

    settings = {"accumulate_grad_batches": 2, "gradient_clip_val": 1e-3}
    fit(tiny_task(), toy_narratives(toy), tmp_path, 3, [NanGuard(), Measure()], **settings)
    assert len(seen) == 3
    for measured, wanted in seen:
        assert measured == pytest.approx(wanted, rel=1e-5)
        assert measured > 1e-2


def test_no_gradient_has_no_norm() -> None:
    assert gradient_norm([nn.Parameter(torch.ones(3))]).item() == 0


def test_a_batch_survives_a_file(toy: Path, tmp_path: Path) -> None:
    for data in (toy_narratives(toy), toy_referring(toy, masks=True)):
        batch = next(iter(data.train_dataloader()))
        torch.save(batch.plain(), tmp_path / "batch.pt")
        again = Batch.from_plain(torch.load(tmp_path / "batch.pt", weights_only=True))
        assert again.references == batch.references
        one, other = tree_flatten(again.plain()), tree_flatten(batch.plain())
        assert one[1] == other[1]
        assert all(a.equal(b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(one[0], other[0], strict=True))


def test_a_checkpoint_without_a_step_is_refused(tiny_run: Path) -> None:
    with pytest.raises(ValueError, match=r"last.ckpt: a checkpoint, but not of a step that went wrong$"):
        replay.main([str(next(tiny_run.rglob("last.ckpt")))])


class Telling(NanGuard):
    """Writes what it says in each process into a file."""

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: torch.Tensor) -> None:
        try:
            super().on_before_backward(trainer, pl_module, loss)
        except ValueError as error:
            (Path(trainer.default_root_dir) / f"told_{trainer.global_rank}").write_text(str(error))
            trainer.strategy.barrier()  # the launcher ends the others when one has gone
            raise


@pytest.mark.slow
def test_all_processes_stop_where_one_has_to(toy: Path, tmp_path: Path) -> None:
    task: Task = tiny_task()
    callbacks = [Poison(1, rank=1), Telling()]
    with pytest.raises(Exception, match="the loss is nan"):
        fit(task, toy_narratives(toy, batch_size=2), tmp_path, 4, callbacks, devices=2, strategy="ddp_spawn")
    told = [(tmp_path / f"told_{rank}").read_text() for rank in (0, 1)]
    assert told[0] == told[1]
    assert told[0].startswith("the loss is nan at step 2 in process 1 of 2, on the samples ")
    content = torch.load(tmp_path / "checkpoints/replay_step_000002.ckpt", weights_only=True)
    assert [found["rank"] for found in content[REPLAY]["found"]] == [1]
