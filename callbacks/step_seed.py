"""Seeds the random numbers of every training step, so that a resumed run draws the same dropout."""

import os
from typing import Any

import lightning as L
import numpy as np
import torch


class StepSeed(L.Callback):
    """Before each batch, seeds torch from (seed, batches done so far, rank); no random state needs saving.

    The seed is that of `seed_everything`.
    """

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        seed = int(os.environ.get("PL_GLOBAL_SEED", "0"))  # where seed_everything leaves it
        seed_step(seed, trainer.fit_loop.total_batch_idx, trainer.global_rank)


def seed_step(seed: int, batches_done: int, rank: int) -> None:
    """Seed torch as a training does before a batch."""
    place = [seed, batches_done, rank]
    torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0] >> 1))
