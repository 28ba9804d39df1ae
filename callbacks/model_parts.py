"""What a training is of, part by part."""

import sys
from collections.abc import Iterator

import lightning as L
from torch import nn

from pixel_llm.tables import aligned


class ModelParts(L.Callback):
    """Says at the start of a training how many numbers each part of the model has, and how many of them train.

    Lightning's summary has one line for the core, and counts operations only of an example input, which tasks have not.
    """

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            sys.stdout.write("\n".join([*aligned(parts_table(pl_module)), ""]))
            sys.stdout.flush()


def parts_table(task: nn.Module) -> list[list[str]]:
    """A row for each part of the core and for what a task has beside it; the last one is of all."""
    rows = [[name, type(part).__name__, *_numbers(part)] for name, part in _parts(task) if list(part.parameters())]
    return [["part", "kind", "parameters", "trained"], *rows, ["all", type(task).__name__, *_numbers(task)]]


def _parts(task: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, child in task.named_children():
        if name == "core":
            yield from ((f"core.{part}", module) for part, module in child.named_children())
        else:
            yield name, child


def _numbers(module: nn.Module) -> list[str]:
    values = list(module.parameters())
    return [f"{sum(v.numel() for v in values):,}", f"{sum(v.numel() for v in values if v.requires_grad):,}"]
