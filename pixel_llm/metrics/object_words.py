"""Object words: how often the predicted place of a word that names an object lies inside that object's box."""

import torch
from torch import Tensor
from torchmetrics import Metric


class ObjectWordsInside(Metric):
    """Share of object words whose predicted centre lies inside their object's box, in [0, 1]; higher is better.

    NaN before the first word.
    """

    full_state_update = False
    higher_is_better = True
    inside: Tensor
    words: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("inside", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("words", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, centres: Tensor, boxes: Tensor) -> None:
        """centres: float[n, 2], xy.  boxes: float[n, 4], x0 y0 x1 y1 in the same unit; an edge counts as inside."""
        inside = (centres >= boxes[:, :2]) & (centres <= boxes[:, 2:])
        self.inside += inside.all(dim=-1).sum()
        self.words += len(inside)

    def compute(self) -> Tensor:
        return self.inside.double() / self.words
