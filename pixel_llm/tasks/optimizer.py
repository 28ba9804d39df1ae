"""AdamW with parameter groups, linear warm-up and cosine decay, as published."""

import math
import re
from collections.abc import Iterable

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

_STEM = re.compile(r"tuned_encoder\..*(patch_embed\.proj\.|pos_embed$)")
_BLOCK = re.compile(r"tuned_encoder\..*blocks\.(\d+)\.")


class AdamWSchedule:
    """How a task's parameters are optimised.

    learning_rate: at the end of the warm-up; it falls to 0 along a cosine at the last step.
    weight_decay: of every parameter that is no vector (biases and norm scales are spared).
    layer_decay: d scales block i of the tuned encoder's n blocks by d ** (n - i) and its patch embedding and
        position table by d ** (n + 1); 1 is off, the published densecap recipe has 0.8.
    multipliers: factors for parameters whose name contains a given string.
    """

    def __init__(
        self,
        learning_rate: float = 5e-5,
        weight_decay: float = 0.0,
        warmup_steps: int = 250,
        betas: tuple[float, float] = (0.9, 0.999),
        layer_decay: float = 1.0,
        multipliers: dict[str, float] | None = None,
    ) -> None:
        self.learning_rate, self.weight_decay, self.warmup_steps = learning_rate, weight_decay, warmup_steps
        self.betas, self.layer_decay, self.multipliers = betas, layer_decay, multipliers or {}

    def build(self, module: nn.Module, total_steps: int) -> tuple[torch.optim.AdamW, LambdaLR]:
        """Optimizer and per-step schedule for the trainable parameters of a module."""
        groups = self.groups([(n, p) for n, p in module.named_parameters() if p.requires_grad])
        optimizer = self.optimizer(groups)
        # By default the fused optimiser undoes a loss's scaling itself, after the clipping; then Lightning refuses to
        # clip its gradients, even in bfloat16, where nothing is scaled. With this mark the scaler does it before.
        optimizer._step_supports_amp_scaling = False
        return optimizer, LambdaLR(optimizer, lambda step: schedule(step, self.warmup_steps, total_steps))

    def optimizer(self, groups: list[dict]) -> torch.optim.AdamW:
        return torch.optim.AdamW(groups, lr=self.learning_rate, betas=self.betas, eps=1e-8, fused=True)

    def groups(self, parameters: Iterable[tuple[str, nn.Parameter]]) -> list[dict]:
        """Parameter groups of equal learning rate and weight decay."""
        parameters = list(parameters)
        blocks = [int(m.group(1)) for name, _ in parameters if (m := _BLOCK.search(name))]
        grouped: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in parameters:
            scale = self._scale(name, max(blocks, default=-1) + 1)
            decay = 0.0 if parameter.ndim == 1 else self.weight_decay
            grouped.setdefault((scale, decay), []).append(parameter)
        return [
            {"params": members, "lr": self.learning_rate * scale, "weight_decay": decay}
            for (scale, decay), members in grouped.items()
        ]

    def _scale(self, name: str, num_blocks: int) -> float:
        scale = math.prod(factor for part, factor in self.multipliers.items() if part in name)
        if _STEM.search(name):
            return scale * self.layer_decay ** (num_blocks + 1)
        if block := _BLOCK.search(name):
            return scale * self.layer_decay ** (num_blocks - int(block.group(1)))
        return scale


def schedule(step: int, warmup_steps: int, total_steps: int) -> float:
    """Factor of the learning rate at a step, counted from 0: linear warm-up times cosine decay."""
    warmup = min(1.0, step / warmup_steps) if warmup_steps else 1.0
    progress = max(0, step - warmup_steps) / max(total_steps - warmup_steps, 1)
    return warmup * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
