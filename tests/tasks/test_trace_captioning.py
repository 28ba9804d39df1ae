"""Scoring traces: nothing that is broken is hidden."""

import math
from pathlib import Path

import torch

from tests.runs import tiny_task, tiny_trainer
from tests.tiny import toy_narratives


def test_a_broken_prediction_shows_in_the_scores(toy: Path, tmp_path: Path) -> None:
    task = tiny_task()
    with torch.no_grad():
        next(task.core.location_head.parameters()).fill_(torch.nan)
    trainer = tiny_trainer(tmp_path, 1, limit_val_batches=1)
    (scores,) = trainer.validate(task, toy_narratives(toy), verbose=False)
    assert math.isnan(scores["val/lbm_k0"])
    assert math.isnan(scores["val/lbm_k1"])
