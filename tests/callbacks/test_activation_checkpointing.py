"""Activations that are computed again change nothing but the memory."""

from pathlib import Path

import torch
from torch.autograd.graph import saved_tensors_hooks

from callbacks.activation_checkpointing import ActivationCheckpointing
from tests.runs import fit, tiny_task
from tests.tiny import toy_narratives


def saved_numbers(toy: Path, tmp_path: Path, callbacks: list) -> tuple[int, list[float], dict[str, torch.Tensor]]:
    """Numbers kept for the backward passes of three steps, the losses, and the weights at the end."""
    kept = 0

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.numel()
        return tensor

    task = tiny_task(dropout=0.3)
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        losses = fit(task, toy_narratives(toy), tmp_path, 3, callbacks)
    return kept, losses, dict(task.state_dict())


def test_only_memory_changes(toy: Path, tmp_path: Path) -> None:
    kept, losses, weights = saved_numbers(toy, tmp_path, [])
    fewer, same_losses, same_weights = saved_numbers(toy, tmp_path, [ActivationCheckpointing()])
    assert same_losses == losses
    assert all(torch.equal(same_weights[name], value) for name, value in weights.items())
    assert fewer < kept
