"""Regions that overlap so much that they mean the same: by how much, which of them, and what is said of them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MERGE_IOU = 0.7
TIE = 1e-9  # coordinates that went through [0, 1] and back are a few units of their last place off

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


def box_ious(a: Floats, b: Floats) -> Floats:
    """float64[N, 4] and float64[M, 4] to float64[N, M]: plain IoU without +1 pixel; 0 where a box has no area or a
    coordinate is not finite."""
    area, other = ((box[:, 2:] - box[:, :2]).clip(min=0).prod(axis=1) for box in (a, b))
    sides = np.minimum(a[:, None, 2:], b[:, 2:]) - np.maximum(a[:, None, :2], b[:, :2])
    both = sides[..., 0].clip(min=0) * sides[..., 1].clip(min=0)
    union = area[:, None] + other - both
    return np.where((both > 0) & np.isfinite(union), both / np.where(both > 0, union, 1.0), 0.0)


def merge_groups(boxes: Floats) -> list[Indices]:
    """float64[G, 4] to indices of boxes that are one: the box with the most others at an IoU of 0.7 or more and
    these, the first of equals; then the same among the rest. Largest groups come first, indices ascend.

    Overlap is not passed on: where A overlaps B and B overlaps C, B unites them, A alone would not.
    """
    near = box_ious(boxes, boxes) >= MERGE_IOU - TIE
    np.fill_diagonal(near, True)  # also a box without an area is near itself
    groups: list[Indices] = []
    left = np.ones(len(boxes), dtype=bool)
    while left.any():
        counts = near[:, left].sum(axis=1) * left
        hub = counts.argmax()
        if counts[hub] == 1:
            return groups + [np.array([i]) for i in np.flatnonzero(left)]
        groups.append(np.flatnonzero(near[hub] & left))
        left[groups[-1]] = False
    return groups


def merged_references(boxes: Floats, captions: Sequence[str]) -> list[list[str]]:
    """For each region of an image the captions of all regions that are one with it, its own among them."""
    references: list[list[str]] = [[] for _ in captions]
    for group in merge_groups(boxes):
        shared = [captions[i] for i in group]
        for i in group:
            references[i] = shared
    return references
