"""Marks of regions: on the object's pixels, in the view, and never without a pixel."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from datamodules.region_marks import Mark, click, filled_box, region_mark
from datamodules.views import View, flip

RANGES = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted)


def view(height: int, width: int) -> View:
    return View(torch.zeros(3, height, width, dtype=torch.uint8), (0.0, 0.0, 1.0, 1.0), False, (height, width))


def encoded(mask: np.ndarray) -> dict[str, Any]:
    code = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": code["size"], "counts": code["counts"].decode()}


@given(RANGES, RANGES, st.integers(1, 20), st.integers(1, 20))
@settings(deadline=None, max_examples=80)
def test_a_filled_box_holds_every_pixel_that_the_box_touches(
    columns: list[float], rows: list[float], height: int, width: int
) -> None:
    box = (columns[0], rows[0], columns[1], rows[1])
    mask = filled_box(box, (height, width))
    assert mask.any()
    for row in range(height):
        for column in range(width):
            inside = min(box[2] * width, column + 1) - max(box[0] * width, column)
            below = min(box[3] * height, row + 1) - max(box[1] * height, row)
            if min(inside, below) > 1e-5:
                assert mask[row, column]
            if max(-inside, -below) > 1e-5:
                assert not mask[row, column]


def test_a_mask_is_that_of_the_object_as_the_view_shows_it() -> None:
    mask = np.zeros((6, 8), bool)
    mask[1:4, 0:3] = True
    box = (0.0, 1 / 6, 3 / 8, 4 / 6)
    shown = region_mark("mask", box, encoded(mask), view(6, 8))
    assert torch.equal(shown, torch.from_numpy(mask))
    flipped = region_mark("mask", (5 / 8, 1 / 6, 1.0, 4 / 6), encoded(mask), flip(view(6, 8)))
    assert torch.equal(flipped, torch.from_numpy(mask).flip(-1))
    assert torch.equal(region_mark("box", box, encoded(mask), view(6, 8)), shown)


@pytest.mark.parametrize("mark", ["mask", "box", "click"])
def test_a_region_never_loses_its_last_pixel(mark: Mark) -> None:
    """One pixel of a large image, which a view of a tenth of its size leaves out."""
    mask = np.zeros((100, 100), bool)
    mask[41, 41] = True
    shown = region_mark(mark, (0.41, 0.41, 0.42, 0.42), encoded(mask), view(10, 10), np.random.default_rng(0))
    assert shown.nonzero().tolist() == [[4, 4]]
    assert region_mark(mark, (0.41, 0.41, 0.42, 0.42), None, view(10, 10)).nonzero().tolist() == [[4, 4]]


def test_a_click_falls_well_inside() -> None:
    ring = torch.zeros(21, 31, dtype=torch.bool)
    ring[3:18, 2:29] = True
    ring[8:13, 7:22] = False
    drawn = {tuple(click(ring, np.random.default_rng(seed)).nonzero().flatten().tolist()) for seed in range(60)}
    assert len(drawn) > 20
    rows, columns = (~ring).nonzero(as_tuple=True)
    steps = {place: ((rows - place[0]).abs() + (columns - place[1]).abs()).min() for place in drawn}
    assert min(steps.values()) == 2  # of 4 in the middle of the broad side
    [[row, column]] = click(ring, None).nonzero().tolist()
    assert ((rows - row).abs() + (columns - column).abs()).min() == 4
    one = torch.zeros(3, 3, dtype=torch.bool)
    one[0, 2] = True
    assert torch.equal(click(one, None), one)
