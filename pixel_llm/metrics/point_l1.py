"""Point L1: how far predicted points of words lie from the points of their traces."""

import torch
from torch import Tensor
from torchmetrics import Metric


class PointL1(Metric):
    """Mean over captions of `point_l1`, the trace metric of the published PixelLLM code. Lower is better.

    A caption without a located word counts as 0, as published. NaN before the first caption.
    """

    full_state_update = False
    higher_is_better = False
    total: Tensor
    samples: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("samples", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, predicted: Tensor, truth: Tensor, located: Tensor) -> None:
        """Shapes and units of `point_l1`."""
        values = point_l1(predicted, truth, located)
        self.total += values.sum()
        self.samples += len(values)

    def compute(self) -> Tensor:
        return self.total / self.samples


def point_l1(predicted: Tensor, truth: Tensor, located: Tensor) -> Tensor:
    """Per caption, the mean over located tokens of the distance from a predicted point to the nearest true one.

    predicted: float[P, T, N, 2], xy in [0, 1].  truth: float[P, T, M, 2], xy in [0, 1].
    located: bool[P, T], tokens that count; values elsewhere are ignored, NaN too.
    Returns float64[P]; the distance is the mean of |dx| and |dy|.
    """
    difference = predicted.double().unsqueeze(3) - truth.double().unsqueeze(2)
    nearest = difference.abs().mean(dim=-1).amin(dim=-1)
    per_token = nearest.mean(dim=-1).masked_fill(~located, 0.0)
    return per_token.sum(dim=-1) / (located.sum(dim=-1) + 1e-8)
