"""Writes what a test or a prediction run found to files: the figures, and every prediction."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L

from pixel_llm.metrics.distributed import gather_rows
from pixel_llm.structures import Batch


class EvaluationReport(L.Callback):
    """Writes into the log folder: NAME.json (the metrics) and NAME.jsonl (a prediction a line) after `lightning test`,
    and predictions.jsonl after `lightning predict`.

    name: NAME. Boxes in the predictions are x0 y0 x1 y1 in pixels of the original image.
    Where several kinds of data were evaluated, the predictions of each have a file, such as NAME_referring.jsonl.
    """

    def __init__(self, name: str = "test") -> None:
        self.name = name
        self._rows: dict[str, dict[str, str]] = {}

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int, *_: Any
    ) -> None:
        self._collect(outputs["predictions"] if outputs else [], batch)

    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int, *_: Any
    ) -> None:
        self._collect(outputs or [], batch)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        figures = {name.removeprefix("test/"): float(value) for name, value in trainer.callback_metrics.items()}
        _write(trainer, f"{self.name}.json", json.dumps(figures, indent=1) + "\n")
        self._write_predictions(trainer, self.name)

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._write_predictions(trainer, "predictions")

    def _collect(self, predictions: Sequence[Any], batch: Batch) -> None:
        """Keeps what has a key; several predictions of a batch may have the same."""
        lines: dict[str, list[str]] = {}
        for prediction in predictions:
            if prediction.key:  # else the sample only fills up the last batch
                lines.setdefault(prediction.key, []).append(json.dumps(asdict(prediction), ensure_ascii=False))
        kept = self._rows.setdefault(batch.sources[0], {})
        kept |= {key: "\n".join(mine) for key, mine in lines.items()}

    def _write_predictions(self, trainer: L.Trainer, name: str) -> None:
        kinds, self._rows = self._rows, {}
        for kind, own in kinds.items():
            if rows := gather_rows(own):
                file = f"{name}_{kind}.jsonl" if len(kinds) > 1 else f"{name}.jsonl"
                _write(trainer, file, "".join(f"{row}\n" for row in rows.values()))


def _write(trainer: L.Trainer, name: str, text: str) -> None:
    file = Path(trainer.log_dir or trainer.default_root_dir) / name  # a broadcast: every process has to ask
    if not trainer.is_global_zero:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    print(f"written: {os.path.relpath(file)}")
