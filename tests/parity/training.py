"""Optimiser steps against the published ones."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from pixel_llm.tasks.optimizer import AdamWSchedule
from tests.parity.golden import Golden, read_golden
from tests.parity.report import Report

TOLERANCE = 2e-5


def check_optim(report: Report, path: Path) -> None:
    golden = read_golden(path)
    base = golden.config["base"]
    for case, overrides in golden.config["cases"].items():
        settings = overrides["optimizer"]
        multiplier = settings.get("backbone_multiplier")
        own = [key.removeprefix(f"{case}/step0/out/") for key in golden.arrays if key.startswith(f"{case}/step0/out/")]
        recipe = AdamWSchedule(
            learning_rate=base["lr_configs"]["base_learning_rate"],
            weight_decay=settings["weight_decay"],
            warmup_steps=base["lr_configs"]["warmup_steps"],
            layer_decay=settings.get("layerwise_decay", 1.0),
            multipliers={f"{settings['backbone_layer_prefix']}.": multiplier} if multiplier else None,
        )
        _check_case(report, golden, case, own, recipe, base["num_training_steps"], settings)


def _check_case(
    report: Report,
    golden: Golden,
    case: str,
    paths: list[str],
    recipe: AdamWSchedule,
    total_steps: int,
    settings: dict[str, Any],
) -> None:
    module = _Named({path: torch.from_numpy(golden.parameters[path].copy()) for path in paths}, settings)
    optimizer, scheduler = recipe.build(module, total_steps)
    for step in range(len([k for k in golden.outputs if k.startswith(f"{case}/step")])):
        for path, parameter in module.parameters_by_path.items():
            parameter.grad = torch.from_numpy(golden.arrays[f"grads/{step}/{path}"].copy())
        optimizer.step()
        scheduler.step()
        for path, parameter in module.parameters_by_path.items():
            report.check(
                golden.name,
                f"{case}/step{step}/{path}",
                parameter,
                golden.output(f"{case}/step{step}", path),
                TOLERANCE,
            )


class _Named(nn.Module):
    """Published parameters under the names that our recipe knows parts by.

    The file holds only some blocks of the encoder; an unused vector stands for the last one where a recipe counts them.
    """

    def __init__(self, tensors: dict[str, torch.Tensor], settings: dict[str, Any]) -> None:
        super().__init__()
        self.parameters_by_path = {path: nn.Parameter(value) for path, value in tensors.items()}
        self.named = {
            path.replace("git_backbone/", "tuned_encoder/").replace("/", "."): parameter
            for path, parameter in self.parameters_by_path.items()
        }
        last = settings.get("num_layers", 0) - 1
        if last >= 0:
            self.named.setdefault(f"tuned_encoder.blocks.{last}.unused", nn.Parameter(torch.zeros(1)))

    def named_parameters(self, *_: Any, **__: Any):  # type: ignore[no-untyped-def,override]
        return iter(self.named.items())
