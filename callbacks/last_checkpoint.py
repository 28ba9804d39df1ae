"""The newest state of a run, in one file."""

from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint


class LastCheckpoint(ModelCheckpoint):
    """Writes `checkpoints/last.ckpt` in the log folder every so many steps and at the end of the training."""

    def __init__(self, every_n_train_steps: int = 1000) -> None:
        super().__init__(filename="last", enable_version_counter=False, every_n_train_steps=every_n_train_steps)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert self.dirpath is not None
        if self._last_global_step_saved != trainer.global_step:  # a large model's file is not written twice
            trainer.save_checkpoint(Path(self.dirpath) / "last.ckpt")
