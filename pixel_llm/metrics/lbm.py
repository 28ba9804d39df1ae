"""Local bipartite matching (LBM): how far the predicted boxes of a caption's words lie from the true trace."""

import logging
from collections.abc import Sequence
from functools import lru_cache
from math import ceil, floor, nan
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from pixel_llm.metrics.assignment import assignment_cost

SEGMENT = 20  # boxes of the shorter sequence that are matched at a time

Boxes = Tensor | NDArray[Any] | Sequence[Sequence[float] | None]

log = logging.getLogger(__name__)


class LocalBipartiteMatching(Metric):
    """LBM of Meng et al. 2021, "Connecting What to Say With Where to Look by Modeling Human Attention Traces"
    (MITR), by its protocol of controlled trace generation: the model reads the true caption and predicts one
    box per word; the true boxes of the words that have a trace are compared with *all* predicted boxes, in
    word order; the value is the mean over captions (MITR's own loop averages the means of batches, which
    weighs a short last batch too much). Lower is better; 0 is a perfect trace, and the unit is the mean
    absolute difference of a box coordinate, image sides being 1.

    A caption without any predicted box, or without any word that has a trace, is left out and counted in
    `skipped`. The value is NaN when nothing could be compared.

    k: how many bins of the shorter sequence a box may be matched away from its own place; 0 is strictest.
    """

    full_state_update = False
    higher_is_better = False
    total: Tensor
    samples: Tensor
    skipped: Tensor

    def __init__(self, k: int = 0) -> None:
        super().__init__()
        self.k = k
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("samples", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("skipped", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, predicted: Sequence[Boxes], truth: Sequence[Boxes]) -> None:
        """predicted, truth: per caption the boxes of its words, float[n, 4], x0 y0 x1 y1 in [0, 1]; lengths may
        differ, and a row of the truth is None where the word has no trace. ValueError where the two do not
        hold equally many captions."""
        for boxes, true_boxes in zip(predicted, truth, strict=True):
            value = local_bipartite_matching(boxes, true_boxes, self.k)
            if value is None:
                self.skipped += 1
            else:
                self.total += value
                self.samples += 1

    def compute(self) -> Tensor:
        if self.skipped > 0:
            log.warning("LBM leaves out %d captions: no predicted box, or no word with a trace", int(self.skipped))
        return self.total / self.samples


def local_bipartite_matching(predicted: Boxes, truth: Boxes, k: int = 0) -> float | None:
    """LBM of one caption; None where a side has no box.

    The shorter sequence is cut in segments of 20 boxes, the longer one in as many stretches of the same share
    of its length. Inside a segment every box of the shorter side takes a box of its own among those at the
    same relative place (give or take k bins), such that the mean |difference| of coordinates is least. The
    value is the unweighted mean over segments.

    predicted: float[n, 4], truth: float[m, 4] or None rows, which are dropped; x0 y0 x1 y1 in [0, 1].
    """
    shorter, longer = _rows(predicted), _rows(truth)
    if len(shorter) > len(longer):
        shorter, longer = longer, shorter
    if len(shorter) == 0:
        return None
    stretch = SEGMENT * len(longer) / len(shorter)
    values = []
    for segment in range(ceil(len(shorter) / SEGMENT)):
        ours = shorter[SEGMENT * segment : SEGMENT * (segment + 1)]
        theirs = longer[floor(segment * stretch) : ceil((segment + 1) * stretch)]
        values.append(_match(ours, theirs, k))
    return sum(values) / len(values)


def _match(shorter: NDArray[np.float64], longer: NDArray[np.float64], k: int) -> float:
    """Mean cost of the best assignment of one segment."""
    distance = np.abs(shorter[:, None] - longer).sum(axis=-1) / 4
    if np.isnan(distance).any():  # a broken prediction must show in the value, not stop a validation run
        return nan
    cost = np.where(_window(len(shorter), len(longer), k), distance, np.inf)
    if k == 0:  # the windows are disjoint, so every box may simply take the nearest of its own
        return float(cost.min(axis=1).mean())
    return assignment_cost(cost) / len(shorter)


@lru_cache(maxsize=1024)
def _window(shorter: int, longer: int, k: int) -> NDArray[np.bool_]:
    """bool[shorter, longer]: which boxes each box of the shorter side may take."""
    ratio = longer / shorter
    ours, theirs = np.arange(shorter)[:, None], np.arange(longer)
    return ((ours - k) * ratio <= theirs) & (theirs < (ours + 1 + k) * ratio)


def _rows(boxes: Boxes) -> NDArray[np.float64]:
    if isinstance(boxes, Tensor):
        boxes = boxes.detach().cpu().double().numpy()
    if not isinstance(boxes, np.ndarray):
        boxes = [box for box in boxes if box is not None]
    return np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
