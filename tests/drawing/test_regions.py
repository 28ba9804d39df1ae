"""Pictures of queries: colours where box, mask and truth are, and figures that fit them."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from pixel_llm.drawing.panels import PANEL
from pixel_llm.drawing.regions import FOUND, TRUTH, draw_regions, figures
from pixel_llm.metrics.referring_scores import Truth
from pixel_llm.structures import ReferringPrediction

SIZE = (60, 90)
GREY = np.full((*SIZE, 3), 128, np.uint8)
TOP, LEFT = 16 + 26 + 4, 16  # of the picture on a sheet whose titles take one line


def rle(rows: slice, columns: slice, size: tuple[int, int] = SIZE) -> dict:
    mask = np.zeros(size, np.uint8, order="F")
    mask[rows, columns] = 1
    encoded = coco_mask.encode(mask)
    return {"size": list(size), "counts": encoded["counts"].decode()}


def shown(answer: ReferringPrediction, truth: Truth | None, image: np.ndarray = GREY, size=SIZE) -> np.ndarray:
    """The picture alone, int[h, w, 3], without title and caption."""
    sheet = np.asarray(draw_regions(image, size, [answer], [truth])).astype(int)
    height, width = (round(side * PANEL / max(image.shape[:2])) for side in image.shape[:2])
    return sheet[TOP : TOP + height, LEFT : LEFT + width]


def extent(hit: np.ndarray, scale: float = PANEL / 90) -> list[float]:
    """x0 y0 x1 y1 of the pixels that are hit, in pixels of the original image."""
    rows, columns = np.nonzero(hit)
    return [v / scale for v in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)]


def coloured(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return (picture == colour).all(-1)


def test_boxes_stand_where_they_are_in_their_colours() -> None:
    truth = Truth("val", "", SIZE, [(50, 0, 90, 60)])
    picture = shown(ReferringPrediction("k", "ring", (10, 20, 40, 50)), truth)
    assert extent(coloured(picture, FOUND)) == pytest.approx([10, 20, 40, 50], abs=0.5)
    assert extent(coloured(picture, TRUTH)) == pytest.approx([50, 0, 90, 60], abs=0.5)
    assert (picture[150, 120] == 128).all()  # the inside of the found box stays free


def test_a_mask_is_translucent_and_a_true_one_an_outline() -> None:
    image = GREY.copy()
    image[:, :45] = 0
    answer = ReferringPrediction("k", "ring", (0, 0, 1, 1), rle(slice(20, 50), slice(30, 60)))
    picture = shown(answer, Truth("val", "", SIZE, [], rle(slice(0, 60), slice(70, 80))), image)
    changed = (picture != shown(ReferringPrediction("k", "ring", (0, 0, 1, 1)), None, image)).any(-1)
    assert extent(changed & ~coloured(picture, TRUTH)) == pytest.approx([30, 20, 60, 50], abs=0.5)
    dark, light = picture[150, 180], picture[150, 280]
    assert dark[0] > 50 + dark[1]  # tinted
    assert (light - dark > 40).all()  # the image shows through
    outline = coloured(picture, TRUTH)
    assert extent(outline) == pytest.approx([70, 0, 80, 60], abs=0.5)
    assert not outline[:, round(75 * PANEL / 90)].any()


def test_pixels_are_those_of_the_original_image_whatever_is_shown() -> None:
    small = np.full((20, 30, 3), 128, np.uint8)
    answer = ReferringPrediction("k", "ring", (10, 20, 40, 50), rle(slice(20, 50), slice(10, 40)))
    assert (shown(answer, None, small) == shown(answer, None)).all()


def test_a_row_holds_four_queries() -> None:
    answer = ReferringPrediction("k", "ring", (0, 0, 9, 9))
    widths = [draw_regions(GREY, SIZE, [answer] * n, [None] * n).width for n in range(1, 7)]
    assert np.diff(widths).tolist() == [PANEL + 16] * 3 + [0, 0]
    four, five = (draw_regions(GREY, SIZE, [answer] * n, [None] * n).height for n in (4, 5))
    assert five - 16 == 2 * (four - 16)


def test_a_long_query_takes_three_lines_at_most() -> None:
    heights = [
        draw_regions(GREY, SIZE, [ReferringPrediction("k", "word " * n, (0, 0, 9, 9))], [None]).height
        for n in (1, 20, 2000, 4000)
    ]
    assert heights[0] < heights[1] <= heights[2] == heights[3] <= heights[0] + 3 * 23


@pytest.mark.parametrize("size", [(1, 1), (1, 1000), (1000, 1), (3, 2)])
@pytest.mark.parametrize(
    "box", [(-50, -50, 2000, 2000), (500, 500, 900, 900), (0, 0, 0, 0), (1, 1, 0, 0), (float("nan"), 0, 1, 1)]
)
def test_any_image_and_any_box_can_be_drawn(size: tuple[int, int], box: tuple[float, float, float, float]) -> None:
    mask = rle(slice(None), slice(None), size)
    truth = Truth("val", "", size, [box], mask)
    image = np.zeros((*size, 3), np.uint8)
    drawn = draw_regions(image, size, [ReferringPrediction("k", "q", box, mask, 0.5)], [truth])
    assert PANEL >= drawn.width - 2 * 16 >= 300


def test_an_empty_mask_is_said_to_be_one() -> None:
    box, nothing = (10, 20, 40, 50), rle(slice(0, 0), slice(0, 0))
    full = ReferringPrediction("k", "ring", box, rle(slice(20, 21), slice(10, 11)))
    empty, none = ReferringPrediction("k", "ring", box, nothing), ReferringPrediction("k", "ring", box)
    below = TOP + round(60 * PANEL / 90)
    captions = [np.asarray(draw_regions(GREY, SIZE, [answer], [None]))[below:] for answer in (full, empty, none)]
    assert (captions[0] == captions[2]).all()
    assert (captions[1] != 255).sum() > 2 * (captions[0] != 255).sum()


def test_an_answer_that_finds_nothing_has_no_frame() -> None:
    """In words and without a mask: its box is no place."""
    nothing = ReferringPrediction("k", "ring", (0, 0, 0, 0), rle(slice(0, 0), slice(0, 0)), answer="no ring")
    picture = np.asarray(draw_regions(GREY, SIZE, [nothing], [None]))[: TOP + round(60 * PANEL / 90)]
    assert not (picture == FOUND).all(-1).any()


def test_figures_follow_from_the_truth() -> None:
    found = ReferringPrediction("k", "q", (0, 0, 20, 10), rle(slice(0, 10), slice(0, 30)), 0.75)
    boxes_only = ReferringPrediction("k", "q", (0, 0, 20, 10))
    half = Truth("val", "", SIZE, [(0, 0, 10, 10)], rle(slice(0, 10), slice(0, 10)))
    several = Truth("val", "", SIZE, [(0, 0, 5, 10), (5, 0, 10, 10)], half.mask)
    nothing = Truth("val", "", SIZE, [], rle(slice(0, 0), slice(0, 0)))
    assert figures(found, half) == ["box IoU 0.50", "mask IoU 0.33", "expected IoU 0.75"]
    assert figures(found, several) == ["mask IoU 0.33", "expected IoU 0.75"]
    assert figures(found, nothing) == figures(found, None) == ["expected IoU 0.75"]
    assert figures(boxes_only, half) == ["box IoU 0.50"]
    assert figures(boxes_only, None) == []
    assert figures(ReferringPrediction("k", "q", (0, 0, 1, 1), answer="It is [SEG]."), None) == [
        "answer:", "It", "is", "[SEG].",
    ]  # fmt: skip
