"""Pictures of captioned boxes: each box where it is, in its colour, with a label that hides no other."""

from itertools import combinations

import numpy as np
import pytest

from pixel_llm.drawing.captioned_boxes import CaptionedBox, View, draw_captioned_boxes
from pixel_llm.drawing.label_places import label_places, number_places
from pixel_llm.metrics.region_overlap import box_ious
from pixel_llm.run_lengths import encoded

SIZE = (60, 90)
GREY = np.full((*SIZE, 3), 128, np.uint8)
SCALE = 880 / 90
TOP, LEFT = 16 + 26 + 4, 16  # of the picture on the sheet


def drawn(boxes: list[CaptionedBox], image: np.ndarray = GREY, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.asarray(draw_captioned_boxes(image, size, [View("photo.jpg", boxes)])).astype(int)


def extent(picture: np.ndarray, box: CaptionedBox) -> list[float]:
    """x0 y0 x1 y1 of the lines in a box's colour, in pixels of the original image; labels are wider than frames."""
    hit = (picture[TOP:, LEFT:] == box.colour).all(-1)
    rows, columns = (np.flatnonzero(hit.sum(axis) > 100) for axis in (1, 0))
    return [v / SCALE for v in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)]


def test_boxes_stand_where_they_are_in_their_colours() -> None:
    boxes = [CaptionedBox(1, (10, 20, 40, 50), "a"), CaptionedBox(2, (50, 10, 85, 55), "b")]
    picture = drawn(boxes)
    assert boxes[0].colour != boxes[1].colour
    # a label above its box has the same colour: rows are those of frame and label, columns those of the frame
    for box in boxes:
        x0, _, x1, y1 = extent(picture, box)
        assert (x0, x1, y1) == pytest.approx((box.box[0], box.box[2], box.box[3]), abs=0.5)
    assert (picture[TOP + round(35 * SCALE), LEFT + round(25 * SCALE)] == 128).all()  # the inside stays free


def test_pixels_are_those_of_the_original_image_whatever_is_shown() -> None:
    box = [CaptionedBox(1, (10, 20, 40, 50), "ring")]
    assert (drawn(box, GREY[:20, :30]) == drawn(box)).all()


def test_a_click_is_a_dot_and_no_frame() -> None:
    box = CaptionedBox(1, (30, 20, 60, 40), "", clicks=[(30, 20), (60, 40)])
    hit = (drawn([box])[TOP : TOP + 586, LEFT : LEFT + 880] == box.colour).all(-1)
    for x, y in box.clicks:
        assert hit[round(y * SCALE), round(x * SCALE)]
    assert not hit[round(30 * SCALE), round(30 * SCALE)]
    assert not hit[round(30 * SCALE), round(60 * SCALE)]


def test_a_mask_is_an_outline_and_no_frame() -> None:
    mask = np.zeros(SIZE, bool)
    mask[20:50, 10:40] = np.tri(30, dtype=bool)  # the lower left half of the box
    box = CaptionedBox(1, (10, 20, 40, 50), "", mask=encoded(mask))
    hit = (drawn([box])[TOP : TOP + 586, LEFT : LEFT + 880] == box.colour).all(-1)
    rows, columns = np.nonzero(hit[round(21 * SCALE) :])  # below the label
    assert (columns.min() / SCALE, columns.max() / SCALE) == pytest.approx((10, 40), abs=0.2)
    assert rows.max() / SCALE == pytest.approx(50 - 21, abs=0.2)
    assert hit[round(45 * SCALE), round(10 * SCALE) + 1]
    assert hit[round(50 * SCALE) - 2, round(25 * SCALE)]
    assert not hit[round(35 * SCALE), round(40 * SCALE) - 2]  # the frame's right side would be here
    assert not hit[round(45 * SCALE), round(15 * SCALE)]


def test_few_sentences_stand_at_their_boxes_and_many_in_a_legend() -> None:
    few = [CaptionedBox(1, (10, 20, 40, 50), "ring"), CaptionedBox(2, (50, 20, 80, 50), "cross")]
    many = [CaptionedBox(n, (10 + n % 9, 20, 40, 50), "the ring", "0.50") for n in range(1, 30)]
    long = [CaptionedBox(1, (10, 20, 40, 50), "ring " * 60)]
    plain = drawn([]).shape[0]
    assert drawn(few).shape[0] == plain
    assert drawn(many).shape[0] > plain + 10 * 23
    assert drawn(long).shape[0] > plain + 2 * 23


def test_both_views_are_labelled_alike_and_a_single_one_is_larger() -> None:
    few = [CaptionedBox(1, (10, 20, 40, 50), "ring")]
    long = [CaptionedBox(1, (10, 20, 40, 50), "ring " * 60)]
    both = np.asarray(draw_captioned_boxes(GREY, SIZE, [View("a", few), View("b", long)]))
    same = np.asarray(draw_captioned_boxes(GREY, SIZE, [View("a", few), View("b", few)]))
    assert both.shape[1] == same.shape[1] == 2 * 640 + 3 * 16
    assert drawn(few).shape[1] == 880 + 2 * 16
    legend = both[TOP + 427 + 10 :, 16 : 16 + 640]
    assert (legend == few[0].colour).all(-1).any()  # though these few would find a place


@pytest.mark.parametrize(
    ("number", "caption"),
    [(0, ""), (1, "a word " * 80), (1, "左の犬は速い" * 20), (1, "w" * 500), (100, ""), (100, "the 犬 on the left")],
)
@pytest.mark.parametrize("size", [(60, 90), (1, 1), (1, 1000), (1000, 1)])
def test_any_number_of_boxes_of_any_image_can_be_drawn(number: int, size: tuple[int, int], caption: str) -> None:
    rng = np.random.default_rng(0)
    boxes = rng.uniform(-10, 110, (number, 4)).tolist()
    if number:
        boxes[-1] = [float("nan"), 0, 1, 1]
    asked = [CaptionedBox(n, tuple(box), caption, "0.1") for n, box in enumerate(boxes, 1)]
    picture = drawn(asked, np.zeros((*size, 3), np.uint8), size)
    assert picture.shape[0] >= 880 * size[0] / max(size)


def test_labels_find_places_apart_or_none() -> None:
    rng = np.random.default_rng(1)
    found = []
    for _ in range(200):
        corners = rng.uniform(0, 400, (5, 2))
        boxes = [(x, y, x + 60, y + 50) for x, y in corners.tolist()]
        sizes = [(float(width), 25.0) for width in rng.uniform(20, 200, 5)]
        places = label_places(sizes, boxes, (460, 450))
        found.append(places is not None)
        labels = [(x, y, x + w, y + h) for (x, y), (w, h) in zip(places or [], sizes, strict=bool(places))]
        for label in labels:
            assert label[0] >= 0
            assert label[1] >= 0
            assert label[2] <= 460
            assert label[3] <= 450
        for pair in combinations(labels, 2):
            assert box_ious(*(np.array([label]) for label in pair)).item() == 0
    assert 0.2 < np.mean(found) < 0.98


def test_numbers_always_find_a_place_on_the_picture() -> None:
    boxes = [(0.0, 0.0, 30.0, 30.0)] * 20
    places = number_places([(20.0, 25.0)] * 20, boxes, (40, 30))
    assert len(places) == 20
    assert all(0 <= x <= 20 and 0 <= y <= 5 for x, y in places)
