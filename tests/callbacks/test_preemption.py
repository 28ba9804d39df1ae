"""A training that is stopped by a signal ends at a border of steps and goes on as if nothing had been."""

import os
import signal
import subprocess
import time
from pathlib import Path

import lightning as L
import pytest
import torch

from callbacks.last_checkpoint import LastCheckpoint
from callbacks.preemption import Preemption, Stopped, requeue
from tests.runs import command, fit, start, tiny_config, tiny_task, write_config
from tests.tiny import toy_narratives


def stopped_by(number: int, process: subprocess.Popen[str], run: Path, presses: int = 1) -> str:
    """Send the signal once the first checkpoint is there, and return what the training said."""
    deadline = time.monotonic() + 120
    while not (run / "checkpoints/last.ckpt").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    for _ in range(presses):
        process.send_signal(number)
        time.sleep(0.3 if presses > 1 else 0)
    return process.communicate(timeout=60)[1]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_stopped_training_goes_on(toy: Path, tmp_path: Path, number: signal.Signals) -> None:
    config = tiny_config(toy, tmp_path / "run", steps=2000)
    config["trainer"]["accumulate_grad_batches"] = 2
    config["trainer"]["callbacks"][0]["init_args"] = {"every_n_train_steps": 3}
    config["data"]["init_args"]["num_workers"] = 1
    process = start("fit", "--config", write_config(tmp_path / "config.yaml", config))
    said = stopped_by(number, process, tmp_path / "run")
    assert process.returncode == 128 + number, said
    last = tmp_path / "run/checkpoints/last.ckpt"
    step = torch.load(last, weights_only=True)["global_step"]
    assert said.splitlines()[-1] == f"stopped by {number.name} after step {step}, saved as {last}"
    done = command("fit", "--config", tmp_path / "config.yaml", "--ckpt_path", "last", "--trainer.max_steps", step + 2)
    assert done.returncode == 0, done.stderr
    assert torch.load(last, weights_only=True)["global_step"] == step + 2


class Signal(L.Callback):
    """SIGTERM to this process at a batch of the second validation."""

    def __init__(self) -> None:
        self.validations = 0

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.validations += 1

    def on_validation_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch, batch_idx, *_) -> None:
        if (self.validations, batch_idx) == (2, 1):
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_validation_is_not_waited_for_and_nothing_is_lost_by_that(toy: Path, tmp_path: Path) -> None:
    settings: dict = {"val_check_interval": 2, "check_val_every_n_epoch": None, "limit_val_batches": 3}
    settings |= {"enable_checkpointing": True, "num_sanity_val_steps": 0}

    def train(name: str, *callbacks: L.Callback, ckpt_path: Path | None = None) -> tuple[list[float], dict]:
        task = tiny_task(dropout=0.1)
        kept = [LastCheckpoint(every_n_train_steps=100), *callbacks]
        losses = fit(task, toy_narratives(toy), tmp_path / name, 7, kept, ckpt_path, **settings)
        return losses, task.state_dict()

    whole, weights = train("whole")
    last = tmp_path / "stopped/checkpoints/last.ckpt"
    with pytest.raises(Stopped, match=f"^stopped by SIGTERM after step 4, saved as {last}$"):
        train("stopped", Signal(), Preemption())
    rest, again = train("stopped", Preemption(), ckpt_path=last)
    assert rest == whole[4:]
    assert all(torch.equal(value, again[name]) for name, value in weights.items())


def test_a_signal_while_a_run_starts_ends_it_after_a_step(toy: Path, tmp_path: Path) -> None:
    class Early(L.Callback):
        def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
            os.kill(os.getpid(), signal.SIGUSR1)

    received: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: received.append(number))
    try:
        with pytest.raises(Stopped, match=r"^stopped by SIGUSR1 after step 1, not saved"):
            fit(tiny_task(), toy_narratives(toy), tmp_path, 5, [Preemption(), Early()])
        assert not received
        signal.raise_signal(signal.SIGUSR1)  # afterwards it is the program's own again
        assert received == [signal.SIGUSR1]
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.slow
def test_two_interrupts_stop_at_once(toy: Path, tmp_path: Path) -> None:
    """Both within one long step, of sixty batches."""
    config = tiny_config(toy, tmp_path / "run", steps=2000)
    config["trainer"]["accumulate_grad_batches"] = 60
    config["data"]["init_args"]["samples_per_epoch"] = 24_000
    process = start("fit", "--config", write_config(tmp_path / "config.yaml", config))
    said = stopped_by(signal.SIGINT, process, tmp_path / "run", presses=2)
    assert process.returncode == 130, said
    assert said.splitlines()[-1] == "stopped at once"


def test_a_job_is_queued_again_under_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\ntest "$2" != 9\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    for job in ("7", "9"):
        monkeypatch.setenv("SLURM_JOB_ID", job)
        requeue()
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "5")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    requeue()
    assert (tmp_path / "asked").read_text().split("\n")[:3] == ["requeue 7", "requeue 9", "requeue 5_3"]
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "job 7 is queued again"
    assert said[1].startswith("job 9 could not be queued again")


@pytest.mark.slow
def test_a_lost_process_ends_the_others_with_its_name(toy: Path, tmp_path: Path) -> None:
    config = tiny_config(toy, tmp_path / "run", steps=2000)
    config["trainer"] |= {"devices": 2, "strategy": "ddp"}
    first = start("fit", "--config", write_config(tmp_path / "config.yaml", config))
    deadline = time.monotonic() + 120
    while not (tmp_path / "run/checkpoints/last.ckpt").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    (second,) = subprocess.run(["pgrep", "-P", str(first.pid)], capture_output=True, text=True).stdout.split()
    os.kill(int(second), signal.SIGKILL)
    said = first.communicate(timeout=60)[1]
    assert first.returncode
    named = f"[rank: 1] Child process with PID {second} terminated with code -9" in said
    assert named or "error: another process of this training has died" in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_two_trainings_do_not_share_a_folder(toy: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "config.yaml", tiny_config(toy, tmp_path / "run", steps=2000))
    first = start("fit", "--config", config)
    deadline = time.monotonic() + 120
    while not (tmp_path / "run/checkpoints/last.ckpt").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    second = command("fit", "--config", config, "--ckpt_path", "last")
    assert second.returncode == 2
    assert f"another training is writing here (process {first.pid} on " in second.stderr
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    assert command("fit", "--config", config, "--trainer.max_steps", 1).returncode == 0
