"""How checkpoints get to the disk and back: whole or not at all, frozen weights once, nothing executed."""

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from pixel_llm.weights.checkpoint import read_checkpoint
from pixel_llm.weights.frozen import split_frozen
from pixel_llm.whole_files import whole_file


class CheckpointFiles(TorchCheckpointIO):
    """Writes a checkpoint beside its place, flushes it to the disk and renames it; reads with `weights_only`.

    See `frozen` for the weights that are kept apart. Both directions raise OSError or ValueError with one line.
    """

    def __init__(self) -> None:
        self._frozen: dict[tuple[str, ...], dict[str, Any]] = {}

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        path = Path(path)
        split_frozen(checkpoint, path.parent, self._frozen)
        with whole_file(path) as part, part.open("wb") as file:
            torch.save(checkpoint, file)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = True) -> dict[str, Any]:
        path = Path(path)
        if not path.exists():
            raise FileNotFoundError(f"Checkpoint file not found: {path}")
        return read_checkpoint(path)
