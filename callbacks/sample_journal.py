"""Which samples each step was made of, to prove that an interrupted training saw what it should have seen."""

import json
import os
from pathlib import Path
from typing import Any

import lightning as L

from pixel_llm.structures import Batch


class SampleJournal(L.Callback):
    """Appends a line for each batch of this process to `samples_rank_N.jsonl` of the log folder.

    A line: the number of the batch in the run, its samples' places in the plan and their sources. A resumed training
    repeats the batches behind its checkpoint; of two lines for one batch the later one counts.
    """

    def __init__(self) -> None:
        self._file = -1

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        folder = trainer.log_dir
        assert folder is not None
        path = Path(folder) / f"samples_rank_{trainer.global_rank}.jsonl"
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        number = trainer.fit_loop.total_batch_idx
        line = {"batch": number, "world": trainer.world_size, "places": batch.positions, "sources": batch.sources}
        os.write(self._file, (json.dumps(line) + "\n").encode())  # in one go: a killed process leaves whole lines

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
