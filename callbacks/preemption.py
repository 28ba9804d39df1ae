"""Stops a training between two steps when somebody asks for it, and leaves a checkpoint to go on from.

SLURM announces the end of a job's time, or its preemption, by a signal. Saving in the middle of a step would lose that
step's batch, so a signal only raises a flag, which all processes look at together when an optimizer step is done.
"""

import os
import signal
import subprocess
import sys
from typing import Any

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn

from callbacks.last_checkpoint import LastCheckpoint

SIGNALS = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)


class Stopped(Exception):
    """A training was stopped from outside; the exit code is that of a program that the signal ended."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


class Preemption(L.Callback):
    """Raises `Stopped` at the next border of optimizer steps after SIGUSR1, SIGTERM or Ctrl-C, with a checkpoint saved.

    In a validation, that is after the batch in hand; while a run starts, after its first step.

    In a SLURM job SIGUSR1, the one that the templates ask for, also puts the job back into the queue. A second Ctrl-C
    stops at once; the last checkpoint is then the newest one.
    """

    def __init__(self) -> None:
        self._received = 0
        self._listens = False  # while a training runs
        self._previous: dict[int, Any] = {}  # handlers, as the training found them

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "fit":  # weights are read and restored yet, which can take minutes
            self._listen()

    def on_sanity_check_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._listen()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._listen()

    def _listen(self) -> None:
        """To be called again after Lightning has set handlers of its own."""
        found: dict[int, Any] = {number: signal.signal(number, self._note) for number in SIGNALS}
        if not self._listens:
            self._listens, self._previous = True, found

    def _note(self, number: int, frame: Any) -> None:
        if not self._listens:  # the training is over, and Lightning has put back what it found here
            signal.signal(number, self._previous[number])
            signal.raise_signal(number)
            return
        if number == self._received == signal.SIGINT:
            os.write(2, b"\nstopped at once\n")
            os._exit(128 + number)
        self._received = number
        os.write(2, f"\n{signal.Signals(number).name}: the training stops after this step\n".encode())

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not trainer.fit_loop._should_accumulate():  # else gradients of this step are not in any checkpoint
            self._stop_if_asked(trainer)

    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """A validation is repeated when the run goes on; it may be longer than the notice that a job gets."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._stop_if_asked(trainer)

    def _stop_if_asked(self, trainer: L.Trainer) -> None:
        """Every process comes here at the same place of its work."""
        if not trainer.strategy.reduce_boolean_decision(self._received > 0, all=False):
            return
        number = max(trainer.strategy.broadcast(self._received), self._received) or signal.SIGTERM
        saved = [c.save_now(trainer) for c in trainer.checkpoint_callbacks if isinstance(c, LastCheckpoint)]
        where = f"saved as {saved[0]}" if saved else "not saved: the configuration has no LastCheckpoint"
        step = trainer.global_step
        if number == signal.SIGUSR1 and trainer.is_global_zero and "SLURM_JOB_ID" in os.environ:
            requeue()
        raise Stopped(number, f"stopped by {signal.Signals(number).name} after step {step}, {where}")

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._restore()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._restore()

    def _restore(self) -> None:
        if self._listens:
            for number, handler in self._previous.items():
                signal.signal(number, handler)
        self._listens = False


def requeue() -> None:
    """Put this SLURM job, or its task of an array, back into the queue; says so if that fails."""
    job = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, text=True)
        sys.stderr.write(f"job {job} is queued again\n")
    except (OSError, subprocess.CalledProcessError) as error:
        reason = (getattr(error, "stderr", "") or str(error)).strip()
        sys.stderr.write(f"job {job} could not be queued again: {reason}\n")
