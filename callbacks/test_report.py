"""Writes what a test found to files: the figures, and every prediction."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L

from pixel_llm.metrics.distributed import gather_rows
from pixel_llm.structures import Batch, Prediction


class TestReport(L.Callback):
    """After `lightning test`, writes NAME.json (the metrics) and NAME.jsonl (a prediction a line) into the log folder.

    name: of the two files. Boxes in the predictions are x0 y0 x1 y1 in pixels of the original image.
    """

    __test__ = False  # no test of pytest's

    def __init__(self, name: str = "test") -> None:
        self.name = name
        self._rows: dict[str, str] = {}

    def on_test_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._rows = {}

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int, *_: Any
    ) -> None:
        predictions: Sequence[Prediction] = outputs["predictions"] if outputs else []
        for prediction, reference in zip(predictions, batch.references, strict=bool(predictions)):
            if reference is not None:
                self._rows[prediction.key] = json.dumps(asdict(prediction), ensure_ascii=False)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        rows = gather_rows(self._rows)
        if not trainer.is_global_zero:
            return
        folder = Path(trainer.log_dir or trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        figures = {name.removeprefix("test/"): float(value) for name, value in trainer.callback_metrics.items()}
        (folder / f"{self.name}.json").write_text(json.dumps(figures, indent=1) + "\n")
        files = [f"{self.name}.json"]
        if rows:
            (folder / f"{self.name}.jsonl").write_text("".join(f"{row}\n" for row in rows.values()))
            files.append(f"{self.name}.jsonl")
        print(*(f"written: {os.path.relpath(folder / file)}" for file in files), sep="\n")
