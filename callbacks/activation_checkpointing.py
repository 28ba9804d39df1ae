"""Less memory for more arithmetic: activations inside blocks are computed again in the backward pass."""

from functools import partial

import lightning as L
from torch.utils.checkpoint import checkpoint

from pixel_llm.sharding import trained_blocks
from pixel_llm.tasks.base import Task


class ActivationCheckpointing(L.Callback):
    """Keeps only the inputs of the blocks of the encoders and the language model that gradients pass through.

    Losses and gradients stay as they are, dropout included. Blocks of frozen image encoders keep nothing anyway.
    """

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        assert isinstance(pl_module, Task)
        if stage == "fit":
            for block in trained_blocks(pl_module.core):
                block.forward = partial(checkpoint, block.forward, use_reentrant=False)
