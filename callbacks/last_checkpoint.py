"""The newest state of a run, in one file, and the few before it."""

import os
import shutil
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint


class LastCheckpoint(ModelCheckpoint):
    """Writes `checkpoints/last.ckpt` in the log folder every so many optimizer steps and at the end of the training.

    every_n_train_steps: optimizer steps between two writings.
    keep: so many of the states before the newest stay as `step_000000100.ckpt`.
    """

    def __init__(self, every_n_train_steps: int = 1000, keep: int = 0) -> None:
        super().__init__(filename="last", enable_version_counter=False, every_n_train_steps=every_n_train_steps)
        self.keep = keep

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *rest: Any) -> None:
        if not trainer.fit_loop._should_accumulate():  # gradients of half a step are in no checkpoint
            super().on_train_batch_end(trainer, pl_module, *rest)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.save_now(trainer)

    @property
    def path(self) -> Path:
        """Where it writes; known once a training has begun."""
        assert self.dirpath is not None
        return Path(self.dirpath) / "last.ckpt"

    def save_now(self, trainer: L.Trainer) -> Path:
        """Write the present state, unless it is there (a large model's file is not written twice); all processes."""
        if self._last_global_step_saved != trainer.global_step:
            self._save_checkpoint(trainer, str(self.path))
        return self.path

    def _save_checkpoint(self, trainer: L.Trainer, filepath: str) -> None:
        last = Path(filepath)
        if self.keep and trainer.is_global_zero and last.exists():
            self._keep_previous(last, self._last_global_step_saved)
        super()._save_checkpoint(trainer, filepath)

    def _keep_previous(self, last: Path, step: int) -> None:
        kept = last.with_name(f"step_{step:09}.ckpt")
        if step and not kept.exists():
            shutil.copytree(last, kept, copy_function=_copy) if last.is_dir() else _copy(last, kept)
        for old in sorted(last.parent.glob("step_*.ckpt"))[: -self.keep]:
            shutil.rmtree(old) if old.is_dir() else old.unlink()


def _copy(file: str | Path, name: str | Path) -> None:
    """A second name of a file, which is replaced and never written to; a copy where the disk has no second names."""
    try:
        os.link(file, name)
    except OSError:
        shutil.copyfile(file, name)
