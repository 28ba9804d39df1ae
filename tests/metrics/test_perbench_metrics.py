"""PerBench's figures against hand counts, dense recomputations, the published table, and the authors' quirks."""

from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from pixel_llm.metrics.captions import score_captions
from pixel_llm.metrics.nltk_meteor import nltk_meteor
from pixel_llm.metrics.perbench import PerBenchMetrics
from pixel_llm.metrics.perbench_scores import Answer, Row, Truth, is_right, matched_overlaps, overall, perbench_figures
from pixel_llm.structures import AnswerPrediction, Reference

HEIGHT, WIDTH = 6, 8
OPTIONS = ("red", "blue", "green")


def rle(mask: np.ndarray) -> dict[str, Any]:
    found = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(mask.shape), "counts": found["counts"].decode()}


def columns(begin: int, end: int) -> dict[str, Any]:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[:, begin:end] = True
    return rle(mask)


def segmented(targets: list[Any], masks: list[Any], forced: list[Any] | None = None) -> Row:
    return Truth("segmentation", "", (), targets), Answer("", masks, forced or [])


def described(true: str, said: str) -> Row:
    return Truth("description", true), Answer(said)


def choice(right: str, said: str, options: tuple[str, ...] = OPTIONS) -> Row:
    return Truth("choice", right, options), Answer(said)


@pytest.mark.parametrize(
    ("model", "figures", "want"),
    [
        ("LISA-7B", (0, 0, 0, 0), 0),
        ("Osprey-7B", (13.4, 12, 0, 0), 8.5),
        ("GLaMM-7B", (12.6, 14, 24.3, 14.6), 15.3),
        ("Sa2VA-4B", (19.2, 71, 31.9, 21.9), 39.0),
        ("Pixel-SAIL 0.5B", (21.4, 69, 29.7, 19.8), 38.4),
        ("Pixel-SAIL 3B", (24.2, 74, 33.4, 23.5), 42.2),
    ],
)
def test_the_overall_score_is_that_of_the_published_table(model: str, figures: tuple[float, ...], want: float) -> None:
    assert 100 * overall(*(figure / 100 for figure in figures)) == pytest.approx(want, abs=0.0501)


def test_paper_descriptions_exchange_prediction_and_truth() -> None:
    rows = [described("a red ring by the small blue star", "a red ring"), described("a cat", "<Prompt0>: A cat")]
    figures = perbench_figures(rows, "paper")
    want = (nltk_meteor("a red ring by the small blue star", "a red ring") + nltk_meteor("a cat", "a cat")) / 2
    assert figures == {"descriptions": 2, "meteor_nltk_no_synonyms": pytest.approx(want, abs=1e-12)}
    assert want > 0.85  # in the right direction the first is below one half


@pytest.mark.slow  # METEOR 1.5 takes a minute on a busy machine
def test_strict_descriptions_have_the_projects_own_scores() -> None:
    rows = [described("a red ring by the star", "a red ring"), described("a black cat", "<Prompt0>: a cat")]
    figures = perbench_figures([*rows, choice("A", "A"), segmented([columns(0, 4)], [columns(0, 2)])], "strict")
    own = score_captions(["a red ring", "a cat"], [["a red ring by the star"], ["a black cat"]])
    assert {name: figures[name] for name in own} == own
    [name] = own.keys() & {"meteor", "meteor_python"}
    total = figures["overall" if name == "meteor" else "overall_meteor_python"]
    assert total == pytest.approx((own[name] + 1 + 0.5) / 3)


def test_choices_by_substring_and_by_what_is_named() -> None:
    rows = [
        choice("B. blue", "B. blue"),
        choice("B. blue", "A. red B. blue C. green"),  # lists all: right for the authors alone
        choice("B. blue", "blue"),  # right, but not as it is written
        choice("b", "The answer is blue."),
        choice("C", "A. Carmine"),
    ]
    assert perbench_figures(rows, "paper") == {"choices": 5, "accuracy": pytest.approx(4 / 5)}
    assert perbench_figures(rows, "strict") == {"choices": 5, "accuracy": pytest.approx(3 / 5)}


def test_without_known_options_the_answer_counts_word_for_word() -> None:
    assert is_right(*choice("Dark blue", "dark blue.", options=()))
    assert not is_right(*choice("Dark blue", "it is dark blue", options=()))


def test_paper_masks_first_against_first() -> None:
    rows = [
        # First against first: 2 of 4 columns shared of 4 in all; the second mask and target are not looked at.
        segmented([columns(0, 4), columns(6, 8)], [columns(2, 4), columns(6, 8)]),
        segmented([columns(0, 1)], [], [columns(0, 1), columns(3, 8)]),  # the second attempt
        segmented([columns(0, 8)], []),  # silent: no area in the union
        segmented([columns(0, 0)], [columns(0, 0)]),  # nothing, rightly
    ]
    figures = perbench_figures(rows, "paper")
    assert figures["segmentations"] == 4
    assert figures["ciou"] == pytest.approx((2 + 1) / (4 + 1))
    # Five targets, of which the first of each sample counts; the authors add 1e-5 to each union.
    assert figures["giou"] == pytest.approx((12 / (24 + 1e-5) + 6 / (6 + 1e-5) + 0 + 1) / 5, abs=1e-12)


def test_strict_masks_are_matched_and_silence_costs_its_area() -> None:
    rows = [
        segmented([columns(0, 4), columns(6, 8)], [columns(6, 8), columns(2, 4)]),  # the other order is no fault
        segmented([columns(0, 1)], [], [columns(0, 1)]),  # a second attempt is none
        segmented([columns(0, 2)], [columns(0, 2), columns(4, 8)]),  # one too many
        segmented([columns(0, 0)], []),  # nothing, rightly
    ]
    figures = perbench_figures(rows, "strict")
    assert figures["ciou"] == pytest.approx((2 + 2 + 0 + 2) / (4 + 2 + 1 + 2 + 4))
    assert figures["giou"] == pytest.approx(((1 / 2 + 1) / 2 + 0 + (1 + 0) / 2 + 1) / 4)
    assert figures["ciou_union"] == pytest.approx((4 + 0 + 2 + 0) / (6 + 1 + 6 + 0))
    assert figures["giou_union"] == pytest.approx((4 / 6 + 0 + 2 / 6 + 1) / 4)


def test_empty_masks_gain_nothing() -> None:
    wrong = [columns(5, 8)]
    few = perbench_figures([segmented([columns(0, 2)], wrong)], "strict")
    many = perbench_figures([segmented([columns(0, 2)], [*wrong, *[columns(0, 0)] * 9])], "strict")
    assert few == many
    assert few["giou"] == 0


groups = st.lists(st.integers(0, 2**16 - 1), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(groups, groups)
def test_the_matching_is_the_best_and_areas_are_those_of_dense_masks(targets: list[int], masks: list[int]) -> None:
    """Masks of 4 x 4 pixels, the bits of a number; every assignment is tried."""
    dense = [np.array([[[n >> (4 * y + x) & 1 for x in range(4)] for y in range(4)] for n in group], bool)
             for group in (targets, [n for n in masks if n])]  # fmt: skip
    found = matched_overlaps(*segmented([rle(m) for m in dense[0]], [rle(m) for m in dense[1]]))
    slots = max(len(dense[0]), len(dense[1]))
    padded = [np.concatenate([group, np.zeros((slots - len(group), 4, 4), bool)]) for group in
              (dense[0], dense[1].reshape(-1, 4, 4))]  # fmt: skip

    def iou(a: np.ndarray, b: np.ndarray) -> float:
        return (a & b).sum() / (a | b).sum() if (a | b).any() else 1.0

    best = max(sum(iou(a, padded[1][j]) for a, j in zip(padded[0], order, strict=True))
               for order in permutations(range(slots)))  # fmt: skip
    assert len(found) == slots
    assert sum(pair.iou for pair in found) == pytest.approx(best, abs=1e-9)
    areas = sum(int(group.sum()) for group in dense)
    assert sum(pair.intersection + pair.union for pair in found) == areas


def test_overall_needs_all_three_tasks_and_says_what_meteor_it_holds() -> None:
    rows = [described("a cat", "a cat"), choice("A", "A"), segmented([columns(0, 4)], [columns(0, 2)])]
    figures = perbench_figures(rows, "paper")
    meteor = 1 - 0.5 * (1 / 2) ** 3
    assert figures["overall_meteor_nltk_no_synonyms"] == pytest.approx((meteor + 1 + 0.5) / 3, abs=1e-6)
    assert not [name for name in perbench_figures(rows[1:], "paper") if name.startswith("overall")]


def reference(key: str, **changes: Any) -> Reference:
    return Reference(key, changes.pop("caption", ""), **changes)


def test_the_metric_collects_splits_and_counts_repetitions_once() -> None:
    metric = PerBenchMetrics("paper")
    assert metric.compute() == {}
    given_masks = [columns(0, 4)]
    right = AnswerPrediction("a/segmentation/0", "[SEG]", masks=given_masks)
    asked = reference("a/segmentation/0", kind="segmentation", masks=given_masks)
    wrong = AnswerPrediction("b/choice/0", "A. red")
    chosen = reference("b/choice/0", caption="B. blue", kind="choice", options=["red", "blue"])
    metric.update([asked, chosen, None], [right, wrong, wrong])
    metric.update([chosen], [AnswerPrediction("b/choice/0", "B. blue")])
    scores = metric.compute()
    assert list(scores) == ["a", "b"]
    assert scores["a"]["ciou"] == 1
    assert scores["b"] == {"choices": 1, "accuracy": 0}
    metric.reset()
    assert metric.compute() == {}


def test_a_mask_of_another_size_is_named() -> None:
    other = {"size": [8, 6], "counts": columns(0, 1)["counts"]}
    asked = reference("a/segmentation/0", kind="segmentation", masks=[columns(0, 1)])
    with pytest.raises(ValueError, match=r"question 'a/segmentation/0': a mask of \[8, 6\] for an image of \[6, 8\]"):
        PerBenchMetrics().update([asked], [AnswerPrediction("", "", masks=[other])])
