"""Dense captioning against a program that follows the definition step by step, and its awkward cases."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pixel_llm.metrics import dense_captioning
from pixel_llm.metrics.coco_ap import coco_box_ap
from pixel_llm.metrics.dense_captioning import DenseCaptioningMetrics, dense_figures
from pixel_llm.metrics.dense_captioning_scores import (
    IOU_THRESHOLDS,
    METEOR_THRESHOLDS,
    PUBLISHED,
    DenseScores,
    DetectedRegions,
    Protocol,
    TrueRegions,
    dense_captioning_scores,
)
from pixel_llm.metrics.jars import JarUnavailable
from pixel_llm.metrics.region_overlap import merge_groups, merged_references
from tests.parity.region_metrics import check_densecap_eval
from tests.parity.report import Report

Images = tuple[list[TrueRegions], list[DetectedRegions]]
WORDS = ("a red ball", "a blue cup", "the red ball", "grass", "a cup on the red ball", "")


def shared_words(captions: Sequence[str], references: Sequence[Sequence[str]]) -> NDArray[np.float64]:
    """Stands in for METEOR: the best share of words that caption and reference have in common."""

    def score(a: str, b: str) -> float:
        first, second = set(a.split()), set(b.split())
        return len(first & second) / max(1, len(first | second)) / 2

    pairs = zip(captions, references, strict=True)
    return np.array([max(score(caption, one) for one in own) for caption, own in pairs])


def true(*regions: tuple[tuple[float, ...], str]) -> TrueRegions:
    return TrueRegions(np.array([box for box, _ in regions], float).reshape(-1, 4), [text for _, text in regions])


def found(*regions: tuple[tuple[float, ...], float, str]) -> DetectedRegions:
    boxes = np.array([box for box, _, _ in regions], float).reshape(-1, 4)
    return DetectedRegions(boxes, np.array([score for _, score, _ in regions]), [text for _, _, text in regions])


def drawn(seed: int, images: int = 6) -> Images:
    """Images with regions that almost coincide, detections near and far from them, and scores with ties."""
    rng = np.random.default_rng(seed)
    truths, detections = [], []
    for _ in range(images):
        corners = rng.uniform(0, 80, (rng.integers(0, 7), 2))
        boxes = np.concatenate([corners, corners + rng.uniform(5, 40, corners.shape)], axis=1)
        boxes = np.concatenate([boxes, boxes[:3] + rng.normal(0, 1, boxes[:3].shape)])
        near = boxes[rng.integers(0, len(boxes), 12)] if len(boxes) else rng.uniform(0, 50, (12, 4))
        guesses = np.concatenate([near + rng.normal(0, 4, near.shape), [[200.0, 200, 210, 210]]])
        scores = rng.integers(0, 10, len(guesses)) / 10
        texts = rng.choice(WORDS, len(boxes) + len(guesses)).tolist()
        truths.append(TrueRegions(boxes, texts[: len(boxes)]))
        detections.append(DetectedRegions(guesses, scores, texts[len(boxes) :]))
    return truths, detections


def overlap(a: Sequence[float], b: Sequence[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0 or a[2] <= a[0] or a[3] <= a[1]:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


def by_definition(truths: list[TrueRegions], detections: list[DetectedRegions], protocol: Protocol) -> list[float]:
    """One figure for each pair of thresholds, then the detection figures; box by box, as the definition has it."""
    records, positives = [], 0
    for truth, said in zip(truths, detections, strict=True):
        alone = [([box], [text]) for box, text in zip(truth.boxes, truth.captions, strict=True)]
        groups = grouped(truth) if protocol.merge else alone
        positives += len(groups)
        used = [False] * len(groups)
        for i in sorted(range(len(said.scores)), key=lambda i: -said.scores[i]):
            best, where = 0.0, -1
            for j, (boxes, _) in enumerate(groups):
                iou = overlap(said.boxes[i], np.mean(boxes, axis=0))
                if iou > best:
                    best, where = iou, j
            first = False
            if groups and (where >= 0 or protocol.lua_compat):
                first, used[where] = not used[where], True
            texts = groups[where][1] if where >= 0 else ["nothing"]
            meteor = 1.0 if "" in texts else shared_words([said.captions[i]], [texts])[0]
            records.append((said.scores[i], first, best, meteor))
    records.sort(key=lambda record: -record[0])
    thresholds = [(iou, meteor) for iou in IOU_THRESHOLDS for meteor in METEOR_THRESHOLDS]
    figures = []
    for iou, meteor in [*thresholds, *((iou, -1.0) for iou in IOU_THRESHOLDS)]:
        right, curve = 0, []
        for rank, (_, first, best, said_well) in enumerate(records, start=1):
            right += first and best >= iou and said_well > meteor
            curve.append((right, right / rank))
        points = [max([p for r, p in curve if 100 * r >= k * positives], default=0.0) for k in range(100)]
        figures.append(sum(points) / 100 if positives else 0.0)
    return figures


def grouped(truth: TrueRegions) -> list[tuple[list[Sequence[float]], list[str]]]:
    left = list(range(len(truth.captions)))
    groups = []
    while left:
        near = {i: [j for j in left if i == j or overlap(truth.boxes[i], truth.boxes[j]) >= 0.7] for i in left}
        hub = max(left, key=lambda i: (len(near[i]), -i))
        groups.append(([truth.boxes[j] for j in near[hub]], [truth.captions[j] for j in near[hub]]))
        left = [i for i in left if i not in near[hub]]
    return groups


def numbers(scores: DenseScores) -> list[float]:
    assert scores.average_precisions is not None
    return [*scores.average_precisions.ravel(), *scores.detection_average_precisions]


@pytest.mark.parametrize("protocol", [PUBLISHED, Protocol(lua_compat=True), Protocol(merge=False)], ids=str)
def test_the_figures_are_those_of_the_definition(protocol: Protocol) -> None:
    for seed in range(8):
        images = drawn(seed)
        got = dense_captioning_scores(*images, shared_words, protocol)
        assert numbers(got) == pytest.approx(by_definition(*images, protocol), abs=1e-12), seed


@pytest.mark.shared
def test_the_published_evaluator_gives_the_same_figures(shared) -> None:
    report = Report("")
    check_densecap_eval(report, shared / "golden/published/densecap_eval.json")
    assert report.exit_code == 0


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000))
def test_neither_the_scale_of_boxes_nor_that_of_scores_matters(seed: int) -> None:
    truths, detections = drawn(seed, images=3)
    want = numbers(dense_captioning_scores(truths, detections, shared_words))
    stretched = [TrueRegions(own.boxes * [3, 2, 3, 2], own.captions) for own in truths]
    other = [DetectedRegions(own.boxes * [3, 2, 3, 2], own.scores * 7 - 2, own.captions) for own in detections]
    assert numbers(dense_captioning_scores(stretched, other, shared_words)) == pytest.approx(want, abs=1e-12)


def test_what_is_right_scores_one_and_a_wrong_box_with_a_low_score_changes_nothing() -> None:
    box = (10, 10, 30, 30)
    truths = [true((box, "a red ball"))]
    right = (box, 0.9, "a red ball")
    assert set(numbers(dense_captioning_scores(truths, [found(right)], shared_words))) == {1.0}
    worse = found(right, ((50, 50, 60, 60), 0.1, "grass"))
    assert set(numbers(dense_captioning_scores(truths, [worse], shared_words))) == {1.0}


def test_a_poor_box_with_a_better_score_takes_the_region_away() -> None:
    truth = [true(((0, 0, 100, 100), "grass"))]
    poor = ((0, 0, 10, 10), 0.9, "grass")
    good = ((0, 0, 100, 100), 0.8, "grass")
    assert dense_captioning_scores(truth, [found(poor, good)], None).detection_mean_average_precision == 0
    assert dense_captioning_scores(truth, [found(good)], None).detection_mean_average_precision == 1


def test_a_wrong_caption_is_worth_nothing_though_the_box_is_right() -> None:
    box = (0, 0, 10, 10)
    scores = dense_captioning_scores([true((box, "grass"))], [found((box, 1.0, "a cup"))], shared_words)
    assert (scores.mean_average_precision, scores.detection_mean_average_precision) == (0, 1)


def test_any_caption_is_right_for_an_empty_one() -> None:
    box = (0, 0, 10, 10)
    scores = dense_captioning_scores([true((box, ""))], [found((box, 1.0, "a cup"))], shared_words)
    assert scores.mean_average_precision == 1


def test_images_without_regions_or_detections_or_both() -> None:
    box = (0, 0, 10, 10)
    region, hit = true((box, "grass")), found((box, 0.5, "grass"))
    alone = dense_captioning_scores([region], [hit], shared_words)
    with_empty = dense_captioning_scores([region, true()], [hit, found()], shared_words)
    assert numbers(alone) == numbers(with_empty) == [1.0] * 35
    false = dense_captioning_scores([region, true()], [hit, found((box, 0.9, "grass"))], shared_words)
    assert set(numbers(false)) == {0.5}  # a false positive before the hit
    missed = dense_captioning_scores([region, region], [hit, found()], shared_words)
    assert numbers(missed) == pytest.approx([0.51] * 35)  # recall 0, 0.01 .. 0.5 of 100 points
    assert set(numbers(dense_captioning_scores([true()], [hit], shared_words))) == {0.0}


def test_boxes_that_are_none_overlap_nothing() -> None:
    truth = [true(((0, 0, 10, 10), "grass"), ((5, 5, 5, 9), "a line"))]
    broken = found(((0, 0, float("nan"), 10), 0.9, "grass"), ((5, 5, 5, 9), 0.8, "a line"), ((9, 9, 0, 0), 0.7, "x"))
    assert dense_captioning_scores(truth, [broken], shared_words).detection_mean_average_precision == 0


def test_meteor_is_asked_only_where_it_can_matter() -> None:
    asked: list[str] = []

    def meteor(captions: Sequence[str], references: Sequence[Sequence[str]]) -> NDArray[np.float64]:
        asked.extend(captions)
        return shared_words(captions, references)

    truth = [true(((0, 0, 10, 10), "grass"))]
    first, second = ((0, 0, 10, 10), 0.9, "first"), ((0, 0, 10, 10), 0.8, "second, too late")
    far = ((9, 9, 19, 19), 0.95, "hardly any overlap")
    dense_captioning_scores(truth, [found(first, second)], meteor)
    dense_captioning_scores(truth, [found(far)], meteor)
    assert asked == ["first"]


def test_the_hub_of_a_chain_unites_what_it_overlaps() -> None:
    chain = np.array([[0.0, 0, 10, 10], [1.5, 0, 11.5, 10], [3, 0, 13, 10], [50, 0, 60, 10]])
    assert [group.tolist() for group in merge_groups(chain)] == [[0, 1, 2], [3]]
    assert [group.tolist() for group in merge_groups(chain[[0, 2]])] == [[0], [1]]
    references = merged_references(chain, ["left", "middle", "right", "alone"])
    assert references == [["left", "middle", "right"]] * 3 + [["alone"]]


def test_ap_of_boxes_is_that_of_pycocotools() -> None:
    truths, detections = drawn(3, images=20)
    boxes = [(image, *box) for image, own in enumerate(truths, 1) for box in own.boxes.tolist()]
    gt = COCO()
    gt.dataset = {
        "images": [{"id": image} for image in range(1, len(truths) + 1)],
        "categories": [{"id": 1}],
        "annotations": [
            {"id": i, "image_id": image, "category_id": 1, "iscrowd": 0}
            | {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0)}
            for i, (image, x0, y0, x1, y1) in enumerate(boxes, 1)
        ],
    }
    gt.createIndex()
    rows = [
        [image, x0, y0, x1 - x0, y1 - y0, score, 1]
        for image, own in enumerate(detections, 1)
        for (x0, y0, x1, y1), score in zip(own.boxes.tolist(), own.scores.tolist(), strict=True)
    ]
    evaluation = COCOeval(gt, gt.loadRes(np.array(rows)), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    want = dict(zip(("ap", "ap50", "ap75", "recall"), evaluation.stats[[0, 1, 2, 8]], strict=True))
    assert coco_box_ap(truths, detections) == pytest.approx(want, abs=1e-6)
    assert 0.1 < want["ap"] < 0.9


def test_the_metric_counts_an_image_once_and_forgets_all_by_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense_captioning, "_meteor", lambda *pairs: ("meteor", shared_words(*pairs)))
    truths, detections = drawn(5)
    keys = [f"toy/{i}" for i in range(len(truths))]
    metric = DenseCaptioningMetrics()
    assert metric.compute() == {}
    for part in (slice(4, 6), slice(0, 4), slice(2, 5)):  # some images come twice
        metric.update(keys[part], truths[part], detections[part])
    (split,) = metric.compute().items()
    figures = split[1]
    assert split == ("toy", dense_figures(truths, detections))
    assert figures["map"] == dense_captioning_scores(truths, detections, shared_words).mean_average_precision
    metric.reset()
    assert metric.compute() == {}


def test_splits_are_scored_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense_captioning, "_meteor", lambda *pairs: ("meteor", shared_words(*pairs)))
    truths, detections = drawn(5)
    metric = DenseCaptioningMetrics()
    metric.update([f"{'ab'[i % 2]}/{i}" for i in range(len(truths))], truths, detections)
    assert metric.compute() == {s: dense_figures(truths[i::2], detections[i::2]) for i, s in enumerate("ab")}


def test_names_say_which_protocol_it_was_and_single_thresholds_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense_captioning, "_meteor", lambda *pairs: ("meteor", shared_words(*pairs)))
    images = drawn(5)
    figures = dense_figures(*images, by_threshold=True)
    pairs = [value for name, value in figures.items() if name.startswith("ap_iou")]
    assert len(pairs) == 30
    assert figures["map"] == pytest.approx(np.mean(pairs))
    assert {"map_lua_compat", "detection_map_lua_compat"} <= dense_figures(*images, Protocol(lua_compat=True)).keys()
    assert "map_single_reference" in dense_figures(*images, Protocol(merge=False))


def test_the_name_says_which_program_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense_captioning, "_meteor", lambda *pairs: ("meteor_python", shared_words(*pairs)))
    figures = dense_figures(*drawn(5), Protocol(lua_compat=True))
    assert "map_meteor_python_lua_compat" in figures
    assert "map_lua_compat" not in figures


def test_without_meteor_boxes_are_scored_and_the_log_says_why(monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    def missing(*_: object) -> None:
        raise JarUnavailable("no java")

    monkeypatch.setattr(dense_captioning, "_meteor", missing)
    figures = dense_figures(*drawn(5))
    assert "map" not in figures
    assert figures["detection_map"] > 0
    assert "no java" in caplog.text
