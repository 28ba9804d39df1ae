"""Segmentations of every kind against masks drawn with numpy, and those that must not reach C code."""

from itertools import groupby
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco_mask

from datamodules.formats.masks import compressed_rle
from datamodules.formats.records import RecordError

SHAPES = st.tuples(st.integers(1, 12), st.integers(1, 12))


def runs(mask: np.ndarray) -> list[int]:
    """Run lengths down the columns, beginning with zeros."""
    flat = mask.flatten(order="F").tolist()
    found = [len(list(group)) for _, group in groupby(flat)]
    return found if flat[0] == 0 else [0, *found]


@settings(deadline=None, max_examples=60)
@given(arrays(np.uint8, SHAPES, elements=st.integers(0, 1)).filter(np.any))
def test_plain_and_compressed_run_lengths_keep_every_pixel(mask: np.ndarray) -> None:
    height, width = mask.shape
    packed = coco_mask.encode(np.asfortranarray(mask))["counts"].decode()
    for counts in (runs(mask), packed):
        rle = compressed_rle({"size": [height, width], "counts": counts}, height, width)
        assert rle["size"] == [height, width]
        np.testing.assert_array_equal(coco_mask.decode(rle), mask)


def test_polygons_are_united() -> None:
    squares = [[1, 1, 4, 1, 4, 4, 1, 4], [6, 2, 9, 2, 9, 7, 6, 7]]
    wanted = np.zeros((10, 12), np.uint8)
    wanted[1:4, 1:4] = wanted[2:7, 6:9] = 1
    np.testing.assert_array_equal(coco_mask.decode(compressed_rle(squares, 10, 12)), wanted)


def encoded(counts: Any, size: Any = (3, 3)) -> dict[str, Any]:
    return {"size": list(size), "counts": counts}


BAD = [
    ([[1, 1, 2, 2]], "fewer than three points"),
    ([[1, 1, 2, 2, 3]], "x y pairs"),
    ([], "without polygons"),
    ([3], "x y pairs"),
    ([[0, 0, 1e9, 0, 1, 1]], "far outside"),
    ([[0, 0, 1, -1e9, 1, 1]], "far outside"),
    ([[0, 0, float("nan"), 0, 1, 1]], "not a finite number"),
    ([["0", 0, 1, 0, 1, 1]], "not a number"),
    ("oops", "neither polygons nor run lengths"),
    (None, "neither polygons nor run lengths"),
    (encoded([0, 9], (9, 1)), "another size"),
    (encoded([0, 12], (3, 4)), "another size"),
    (encoded([0, 8]), "do not fill"),
    (encoded([4]), "do not fill"),
    (encoded([0, 10]), "do not fill"),
    (encoded([0, 10, -1]), "not whole numbers"),
    (encoded([0, 4.5, 4.5]), "not whole numbers"),
    (encoded(None), "not whole numbers"),
    (encoded("0"), "do not fill"),
    (encoded("09" + "0" * 5 + "P"), "broken string"),
    (encoded("\x7f"), "broken string"),
    (encoded("o" * 40), "broken string"),
    (encoded([9]), "empty mask"),
]


@pytest.mark.parametrize(("segmentation", "reason"), BAD)
def test_bad_segmentations_are_refused(segmentation: Any, reason: str) -> None:
    with pytest.raises(RecordError, match=reason):
        compressed_rle(segmentation, 3, 3)
