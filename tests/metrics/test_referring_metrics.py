"""Figures of referring expressions against a recomputation with dense masks, torchvision and hand-made cases."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from torchvision.ops import box_iou as torchvision_box_iou
from torchvision.ops import generalized_box_iou

from pixel_llm.coordinates import box_01_to_original_px
from pixel_llm.metrics.referring import ReferringMetrics
from pixel_llm.metrics.referring_scores import (
    Answer,
    Row,
    Truth,
    box_iou,
    clip_box,
    compare,
    referring_table,
    score,
)
from pixel_llm.run_lengths import mask_box, mask_overlap
from pixel_llm.structures import Reference, ReferringPrediction

SIZE = (48, 64)
coordinate = st.integers(0, 40)
corners = st.tuples(coordinate, coordinate, coordinate, coordinate).map(
    lambda c: (min(c[0], c[2]), min(c[1], c[3]), max(c[0], c[2]), max(c[1], c[3]))
)
seeds = st.integers(0, 2**32 - 1)
masks = st.tuples(st.integers(1, 9), st.integers(1, 9), seeds, st.sampled_from([0.0, 0.1, 0.6, 1.0]))


def rle(mask: np.ndarray) -> dict:
    found = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(mask.shape), "counts": found["counts"].decode()}


def dense(height: int, width: int, seed: int, share: float) -> np.ndarray:
    return np.random.default_rng(seed).random((height, width)) < share


def rectangle(x0: int, y0: int, x1: int, y1: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[y0:y1, x0:x1] = True
    return mask


def row(split: str = "s", **changes: object) -> Row:
    values: dict = {
        "kind": "", "targets": 1, "box_iou": 0.6, "mask_box_iou": None, "intersection": None, "union": None,
        "segmented": False, "nothing": False,
    }  # fmt: skip
    return Row(split, **(values | changes))


# --- boxes -----------------------------------------------------------------------------------------------------------
@given(corners, corners)
def test_box_iou_is_torchvisions_and_0_without_area(a: tuple, b: tuple) -> None:
    want = torchvision_box_iou(torch.tensor([a], dtype=torch.float64), torch.tensor([b], dtype=torch.float64)).item()
    assert box_iou(a, b) == pytest.approx(0.0 if math.isnan(want) else want, abs=1e-15)
    assert box_iou(a, b) == box_iou(b, a)


def test_box_iou_is_not_the_generalised_one() -> None:
    a, b = (0, 0, 10, 10), (4, 0, 14, 12)
    generalised = generalized_box_iou(torch.tensor([a]).double(), torch.tensor([b]).double()).item()
    assert box_iou(a, b) == 60 / 160
    assert generalised < 60 / 160 - 0.04


@pytest.mark.parametrize("box", [(5, 5, 5, 9), (8, 0, 2, 9), (8, 9, 2, 0)])
def test_a_box_without_area_or_with_swapped_corners_meets_nothing(box: tuple) -> None:
    assert box_iou(box, (0, 0, 10, 10)) == 0


def test_a_box_is_clipped_to_the_image_before_it_is_compared() -> None:
    assert clip_box((-3, -4, 70, 50), SIZE) == [0, 0, 64, 48]
    truth = Truth("s", "", SIZE, [(0, 0, 64, 48)])
    assert compare(truth, Answer((-1e6, -1e6, 1e6, 1e6))).box_iou == 1
    assert compare(truth, Answer((70, 50, 90, 90))).box_iou == 0


def test_an_iou_of_exactly_the_threshold_is_no_hit_unless_asked_for() -> None:
    tie = compare(Truth("s", "", SIZE, [(0, 0, 10, 10)]), Answer((0, 0, 10, 5)))
    assert tie.box_iou == 0.5
    assert score([tie])["s"]["p50"] == 0
    assert score([tie], inclusive=True)["s"]["p50"] == 1


def test_a_tie_survives_the_way_to_0_1_and_back() -> None:
    metric, hits = ReferringMetrics(), 0
    for height in range(7, 60):
        width = 3 * height + 1
        target = (1 / width, 2 / height, 5 / width, 6 / height)
        reference = Reference(f"{height}", "a", split="s", targets=[target])
        metric.update([reference], [ReferringPrediction("", "a", (1.0, 2.0, 5.0, 4.0))], [(height, width)])
        back = box_01_to_original_px(target, (height, width))
        hits += box_iou(back, (1.0, 2.0, 5.0, 4.0)) > 0.5
    assert hits > 0  # without care some ties would count
    assert metric.compute()["s"]["p50"] == 0


@pytest.mark.parametrize("box", [(math.nan, 0, 1, 1), (0, 0, math.inf, 1), (math.nan,) * 4])
def test_a_box_of_no_numbers_is_a_miss_and_the_log_counts_it(box: tuple, caplog) -> None:
    truth = Truth("s", "", SIZE, [(0, 0, 64, 48)])
    figures = score([compare(truth, Answer(box)), compare(truth, Answer((0, 0, 64, 48)))])["s"]
    assert (figures["p50"], figures["box_iou"]) == (0.5, 0.5)
    assert caplog.messages == ["1 boxes have coordinates that are not finite: they count as misses"]


# --- masks -----------------------------------------------------------------------------------------------------------
@given(masks, seeds, st.sampled_from([0.0, 0.3, 1.0]))
def test_overlap_and_box_of_masks_are_those_of_dense_ones(one: tuple, seed: int, share: float) -> None:
    a, b = dense(*one), dense(*one[:2], seed, share)
    assert mask_overlap(rle(a), rle(b)) == ((a & b).sum(), (a | b).sum())
    rows, columns = np.nonzero(a)
    box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) if len(rows) else (0, 0, 0, 0)
    assert tuple(mask_box(rle(a))) == box


def test_an_image_of_one_pixel() -> None:
    truth = Truth("s", "", (1, 1), [(0, 0, 1, 1)], rle(np.ones((1, 1))))
    figures = score([compare(truth, Answer((0, 0, 1, 1), rle(np.ones((1, 1)))))])["s"]
    assert (figures["p90"], figures["giou"], figures["ciou"], figures["mask_box_p50"]) == (1, 1, 1, 1)
    assert score([compare(truth, Answer((0, 0, 1, 1), rle(np.zeros((1, 1)))))])["s"]["giou"] == 0


def test_sums_of_pixels_are_exact_beyond_32_bits() -> None:
    pixels = 2**31 - 1
    rows = [row(intersection=pixels - 1, union=pixels, segmented=True) for _ in range(1000)]
    assert score(rows)["s"]["ciou"] == (pixels - 1) / pixels


def test_a_mask_iou_of_exactly_a_threshold_is_a_hit() -> None:
    rows = [row(intersection=i, union=10, segmented=True) for i in (5, 6, 7, 8, 9)]
    figures = score(rows)["s"]
    assert [figures[f"mask_p{t}"] for t in (50, 60, 70, 80, 90)] == [1, 0.8, 0.6, 0.4, 0.2]


def test_a_mask_of_another_size_is_refused_by_name() -> None:
    reference = Reference("s/7", "a", split="s", targets=[(0, 0, 1, 1)], mask=rle(rectangle(0, 0, 9, 9)))
    prediction = ReferringPrediction("s/7", "a", (0, 0, 9, 9), rle(np.ones((64, 48))))
    with pytest.raises(ValueError, match=r"expression 's/7': a mask of \[64, 48\] for an image of \[48, 64\]"):
        ReferringMetrics().update([reference], [prediction], [SIZE])
    with pytest.raises(ValueError, match="cannot be compared"):
        mask_overlap(rle(np.ones((2, 3))), rle(np.ones((3, 2))))


# --- expressions that mean nothing or several objects ----------------------------------------------------------------
def test_expressions_that_mean_nothing_or_several_objects_as_rela_counts_them() -> None:
    object_, empty, other = rectangle(0, 0, 10, 10), np.zeros(SIZE), rectangle(30, 30, 40, 40)
    one = Truth("s", "", SIZE, [(0, 0, 10, 10)], rle(object_))
    two = Truth("s", "", SIZE, [(0, 0, 10, 10), (30, 30, 40, 40)], rle(object_ | other))
    none = Truth("s", "", SIZE, [], rle(empty))
    pairs = [
        (one, Answer((0, 0, 10, 10), rle(object_))),  # I 100, U 100
        (two, Answer((0, 0, 10, 10), rle(object_))),  # I 100, U 200
        (none, Answer((0, 0, 10, 10), rle(empty))),  # rightly denied: gIoU 1, nothing to the sums
        (none, Answer((0, 0, 10, 10), rle(other))),  # I 0, U 100
        (none, Answer(None, rle(other), nothing=True)),  # the flag counts, not the mask
        (one, Answer((0, 0, 10, 10), rle(object_), nothing=True)),  # wrongly denied: I 0, U 100, no box
        (none, None),  # no answer is no denial
    ]
    figures = score([compare(*pair) for pair in pairs])["s"]
    assert figures["expressions"] == 7
    assert figures["giou"] == pytest.approx((1 + 0.5 + 1 + 0 + 1 + 0 + 0) / 7)
    assert figures["ciou"] == pytest.approx(200 / 500)
    assert figures["mask_p50"] == pytest.approx(2 / 3)  # of the three that mean something
    assert figures["p50"] == 0.5  # of the two that mean exactly one object
    assert (figures["n_acc"], figures["t_acc"]) == (pytest.approx(2 / 4), pytest.approx(2 / 3))
    lavt = score([compare(*pair) for pair in pairs], empty_target=0)["s"]
    assert lavt["giou"] == pytest.approx(1.5 / 7)
    assert {**lavt, "giou": 0} == {**figures, "giou": 0}


def test_figures_that_say_nothing_about_a_data_set_or_model_are_absent() -> None:
    mask = rle(rectangle(0, 0, 9, 9))
    truth, without = Truth("s", "", SIZE, [(0, 0, 9, 9)], mask), Truth("s", "", SIZE, [(0, 0, 9, 9)])
    boxes = {"p50", "p60", "p70", "p80", "p90", "box_iou"}
    segments = {"ciou", "giou", "mask_p50", "mask_p60", "mask_p70", "mask_p80", "mask_p90"}
    both = score([compare(truth, Answer((0, 0, 9, 9), mask))])["s"]
    assert set(both) == {"expressions", "mask_box_p50"} | boxes | segments
    assert set(score([compare(truth, Answer((0, 0, 9, 9)))])["s"]) == {"expressions"} | boxes
    assert set(score([compare(truth, Answer(None, mask))])["s"]) == {"expressions", "mask_box_p50"} | segments
    assert set(score([compare(without, Answer((0, 0, 9, 9), mask))])["s"]) == {"expressions", "mask_box_p50"} | boxes
    assert score([compare(truth, None)]) == {"s": {"expressions": 1}}
    assert score([]) == {}


def test_a_missing_answer_is_a_miss_in_every_figure() -> None:
    mask = rle(rectangle(0, 0, 10, 10))
    truth = Truth("s", "", SIZE, [(0, 0, 10, 10)], mask)
    figures = score([compare(truth, Answer((0, 0, 10, 10), mask)), compare(truth, None)])["s"]
    assert {value for name, value in figures.items() if name != "expressions"} == {0.5}


# --- whole data sets -------------------------------------------------------------------------------------------------
def made_up(split: str, count: int) -> tuple[list[Reference], list[ReferringPrediction]]:
    """Rectangles shifted by some pixels, in one image."""
    rng = np.random.default_rng(len(split))
    references, predictions = [], []
    for number in range(count):
        x, y, w, h = (*rng.integers(0, 30, 2).tolist(), *rng.integers(4, 18, 2).tolist())
        mask = rectangle(x, y, x + w, y + h)
        shifted = np.roll(mask, rng.integers(0, 5, 2).tolist(), (0, 1))
        box = tuple(float(v) for v in np.array([x, y, x + w, y + h]) + rng.normal(0, 2, 4))
        target = (x / SIZE[1], y / SIZE[0], (x + w) / SIZE[1], (y + h) / SIZE[0])
        kind = ("", "relation", "place")[number % 3]
        key = f"{split}/{number}"
        references.append(Reference(key, "a", split=split, kind=kind, targets=[target], mask=rle(mask)))
        predictions.append(ReferringPrediction(key, "a", box, rle(shifted)))
    return references, predictions


def recomputed(references: list[Reference], predictions: list[ReferringPrediction]) -> dict[str, float]:
    """The figures of one split from dense masks and torchvision's IoU."""
    scale = torch.tensor([SIZE[1], SIZE[0], SIZE[1], SIZE[0]]).double()
    truth = torch.tensor([r.targets[0] for r in references], dtype=torch.float64) * scale
    found = torch.tensor([p.box for p in predictions], dtype=torch.float64).clamp(min=0).minimum(scale)
    ious = torchvision_box_iou(found, truth).diagonal().numpy()
    pairs = [(coco_mask.decode(r.mask), coco_mask.decode(p.mask)) for r, p in zip(references, predictions, strict=True)]
    both = np.array([(a & b).sum() for a, b in pairs])
    either = np.array([(a | b).sum() for a, b in pairs])
    thresholds = (0.5, 0.6, 0.7, 0.8, 0.9)
    return {
        "expressions": len(references),
        "box_iou": ious.mean(),
        **{f"p{t * 100:.0f}": (ious > t).mean() for t in thresholds},
        "ciou": both.sum() / either.sum(),
        "giou": (both / either).mean(),
        **{f"mask_p{t * 100:.0f}": (both / either >= t).mean() for t in thresholds},
    }


def test_all_figures_of_every_split_and_kind_equal_a_recomputation() -> None:
    metric, data = ReferringMetrics(), {split: made_up(split, 60) for split in ("toy_unc_test", "refcoco_unc_val")}
    for references, predictions in data.values():
        for start in range(0, 60, 7):
            batch = slice(start, start + 7)
            metric.update(references[batch], predictions[batch], torch.tensor([SIZE] * len(references[batch])).tolist())
    scores = metric.compute()
    assert list(scores) == ["refcoco_unc_val", "toy_unc_test"]
    for split, (references, predictions) in data.items():
        figures = scores[split]
        for name, value in recomputed(references, predictions).items():
            assert figures[name] == pytest.approx(value, abs=1e-12), name
        for kind in ("relation", "place"):
            own = [i for i, reference in enumerate(references) if reference.kind == kind]
            part = recomputed([references[i] for i in own], [predictions[i] for i in own])
            for name in ("expressions", "p50", "ciou"):
                assert figures[f"{name}_{kind}"] == pytest.approx(part[name], abs=1e-12)


@settings(max_examples=20)
@given(st.permutations(range(12)), st.integers(1, 12))
def test_the_order_and_repetitions_of_expressions_do_not_matter(order: list[int], batch: int) -> None:
    references, predictions = made_up("s", 12)
    straight, shuffled = ReferringMetrics(), ReferringMetrics()
    straight.update(references, predictions, [SIZE] * 12)
    order = order + order[:3]  # as the padding of a distributed sampler repeats some
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        shuffled.update([references[i] for i in rows], [predictions[i] for i in rows], [SIZE] * len(rows))
    assert shuffled.compute() == straight.compute()


def test_a_repeated_sample_without_reference_is_left_out_and_reset_forgets() -> None:
    references, predictions = made_up("s", 2)
    metric = ReferringMetrics()
    metric.update([references[0], None], predictions, [SIZE] * 2)
    assert metric.compute()["s"]["expressions"] == 1
    metric.reset()
    metric.update(references, predictions, [SIZE] * 2)
    assert metric.compute()["s"]["expressions"] == 2


def test_the_table_has_the_official_splits_first_and_kinds_below_theirs() -> None:
    names = ["b_test", "refcocog_umd_test", "refcoco_unc_testB", "a_test", "refcoco_unc_val", "refcocoplus_unc_val"]
    rows = [row(split, kind=kind, box_iou=iou) for split in names for kind, iou in (("relation", 0.6), ("", 0.1))]
    lines = referring_table(score(rows), "all expressions").splitlines()
    assert lines[0].split() == ["split", "expressions", "p50", "p70", "p90", "box_iou"]
    official = ["refcoco_unc_val", "refcoco_unc_testB", "refcocoplus_unc_val", "refcocog_umd_test", "a_test", "b_test"]
    assert [line.split()[0] for line in lines[1:-1:2]] == official
    assert lines[1].split() == ["refcoco_unc_val", "2", "50.0", "0.0", "0.0", "35.0"]
    assert lines[2].split() == ["relation", "1", "100.0"]
    assert lines[-1] == "all expressions"
    assert len({len(line) for line in lines[1:-1:2]}) == 1
