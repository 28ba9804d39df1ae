"""One training at a time in a folder."""

import fcntl
import os
import socket
from pathlib import Path
from typing import IO

import lightning as L

_NAME = "run.lock"


def check_free(folder: Path) -> None:
    """ValueError where a training holds the lock of a folder; nothing is taken or written."""
    if (folder / _NAME).is_file():
        with (folder / _NAME).open() as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                raise _taken(folder, file.read().strip() or "unknown") from None


def _taken(folder: Path | str | None, owner: str) -> ValueError:
    return ValueError(f"{folder}: another training is writing here ({owner}); wait for it or stop it")


class RunLock(L.Callback):
    """Holds `run.lock` in the log folder while a training writes there; the system lets go of it whatever ends the run.

    Raises ValueError in a second training, naming the first one.
    """

    def __init__(self) -> None:
        self._file: IO[str] | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        folder = trainer.log_dir  # all processes have to ask
        other = ""
        if trainer.is_global_zero and folder:
            other = self._take(Path(folder) / _NAME)
        other = trainer.strategy.broadcast(other)  # else the other processes would wait for the first one
        if other:
            raise _taken(folder, other)

    def _take(self, path: Path) -> str:
        """Who has the lock; nobody, "", once it is ours."""
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not flock: loading processes would inherit that
        except OSError:
            file.seek(0)
            owner = file.read().strip() or "unknown"
            file.close()
            return owner
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        self._file = file
        return ""

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._release()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._release()

    def _release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
