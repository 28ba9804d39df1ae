"""Muon for the matrices of a model's layers, AdamW for everything else (Jordan et al. 2024; Liu et al. 2025).

A matrix moves by the nearest orthogonal one to its gradients' running mean, so in all its directions alike, where AdamW
follows the few that are already strong. Its steps are scaled to be as large as AdamW's are, so both share one rate.
A convolution's weight is the matrix that maps what it sees of its input to its output.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from pixel_llm.tasks.optimizer import AdamWSchedule

_ROUNDS = 5
_QUINTIC = 3.4445, -4.7750, 2.0315  # singular values go to between 0.7 and 1.2 in that many rounds
_ADAMW_SIZE = 0.2  # root mean square of AdamW's steps in units of its rate, as measured by Liu et al.


class MuonSchedule(AdamWSchedule):
    """How a task's parameters are optimised: `AdamWSchedule`, with Muon for the matrices that are named.

    matrices: parts of the names of what Muon takes. Vectors under these names, and convolutions that see one channel
        at a time, remain AdamW's.
    momentum: of its running mean.
    Other arguments: see `AdamWSchedule`; `betas` are AdamW's alone.
    """

    def __init__(
        self, *, matrices: Sequence[str] = ("backbone.layers.",), momentum: float = 0.95, **shared: Any
    ) -> None:
        super().__init__(**shared)
        self.matrices, self.momentum = matrices, momentum

    def groups(self, parameters: Iterable[tuple[str, nn.Parameter]]) -> list[dict]:
        parameters = list(parameters)
        inside = [named for named in parameters if self._is_matrix(*named)]
        others = [named for named in parameters if not self._is_matrix(*named)]
        return [
            *({**group, "momentum": None} for group in super().groups(others)),
            *({**group, "momentum": self.momentum} for group in super().groups(inside)),
        ]

    def _is_matrix(self, name: str, value: Tensor) -> bool:
        return value.ndim > 1 and value.shape[1] > 1 and any(part in name for part in self.matrices)

    def optimizer(self, groups: list[dict]) -> torch.optim.AdamW:
        return Muon(groups, lr=self.learning_rate, betas=self.betas, eps=1e-8, fused=True)


class Muon(torch.optim.AdamW):
    """AdamW whose groups of matrices, those with a `momentum`, take Muon's steps."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        groups = self.param_groups
        self.param_groups = [group for group in groups if group["momentum"] is None]
        super().step()
        self.param_groups = groups
        for group in groups:
            if group["momentum"] is not None:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        self._move(parameter, group)
        return loss

    def _move(self, matrix: nn.Parameter, group: dict[str, Any]) -> None:
        assert matrix.grad is not None
        state = self.state[matrix]
        if not state:
            state["step"], state["mean"] = torch.zeros(()), torch.zeros_like(matrix)  # AdamW's loading asks for a step
        state["step"] += 1
        mean = state["mean"].lerp_(matrix.grad, 1 - group["momentum"])
        ahead = _whole(matrix.grad.lerp(mean, group["momentum"]))  # Nesterov's look ahead
        flat = ahead.flatten(1)
        towards = orthogonal(flat).view_as(ahead)
        if isinstance(matrix, DTensor):
            towards = distribute_tensor(towards, matrix.device_mesh, matrix.placements)
        matrix.mul_(1 - group["lr"] * group["weight_decay"])
        matrix.add_(towards, alpha=-group["lr"] * _ADAMW_SIZE * max(flat.shape) ** 0.5)


def _whole(value: Tensor) -> Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value


def orthogonal(matrix: Tensor) -> Tensor:
    """About U V' of a matrix U S V': float[N, M] -> the same, by Newton and Schulz's iteration of fifth degree."""
    a, b, c = _QUINTIC
    near = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    near = near / near.norm().clamp(min=1e-7)
    for _ in range(_ROUNDS):
        square = near @ near.T
        near = torch.addmm(near, torch.addmm(square, square, square, beta=b, alpha=c), near, beta=a)
    return near.T if matrix.shape[0] > matrix.shape[1] else near
