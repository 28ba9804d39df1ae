"""Compares the scores of captioned regions with those of the programs behind published tables."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pixel_llm.metrics.captions import score_captions
from pixel_llm.metrics.dense_captioning_scores import (
    IOU_THRESHOLDS,
    METEOR_THRESHOLDS,
    PUBLISHED,
    DenseScores,
    DetectedRegions,
    Meteor,
    Protocol,
    TrueRegions,
    dense_captioning_scores,
    reference_regions,
)
from pixel_llm.metrics.jars import JarUnavailable
from pixel_llm.metrics.meteor import meteor_score, meteor_statistics
from pixel_llm.metrics.region_overlap import merged_references
from tests.parity.report import Report

DENSE, REGIONS = 1e-5, 1e-9  # the programs of the first add up in float32
FIGURES = {"ROUGE_L": "rouge_l", "CIDEr": "cider", "Meteor": "meteor"}  # published -> ours


def compare_densecap(report: Report, folder: Path) -> None:
    """Average precisions at all thresholds: scenic, the PyTorch program, the Lua program, and awkward inputs."""
    expected = json.loads((folder / "densecap_expected.json").read_text())
    truths, detections = _images(json.loads((folder / "densecap_inputs.json").read_text()))
    edges = _images(json.loads((folder / "densecap_edge_inputs.json").read_text()))
    compat = Protocol(lua_compat=True)
    cases = [(truths, detections, PUBLISHED), (truths, detections, compat), (*edges, PUBLISHED)]
    try:
        scores, lua, odd = _score_together(cases)
    except JarUnavailable as problem:
        report.skip("densecap", str(problem))
        return
    _check_groups(report, truths, expected["scenic"])
    _check_scenic(report, "densecap scenic", scores, expected["scenic"]["results"])
    _check_scenic(report, "densecap edge", odd, expected["edge_scenic"]["ignore_empty_string_true"])
    _check_breakdown(report, "densecap pytorch", scores, expected["densecap_pytorch"], "iou_{}_meteor_{}", "iou_{}")
    _check_breakdown(report, "densecap Lua", lua, expected["densecap_lua"], "ov{}_score{}", "ov{}")
    if abs(lua.detection_mean_average_precision - scores.detection_mean_average_precision) < DENSE:
        report.fail("densecap Lua", "", "both protocols agree: these boxes cannot tell them apart")


def compare_region_captions(report: Report, folder: Path) -> None:
    """Captions of given boxes, with a single reference and with those of boxes that overlap.

    To merge, the published code reads x y width height as two corners, and regions that are no box then are lost.
    Here the same is asked of our merge; `pixel-llm score regions` merges the boxes as they are.
    """
    golden = json.loads((folder / "region_captions.json").read_text())
    content = json.loads((folder / "densecap_inputs.json").read_text())
    said = {row["ann_id"]: row["pred"] for row in golden["predictions"]}
    single: list[tuple[str, list[str]]] = []
    merged: list[tuple[str, list[str]]] = []
    for image in content["images"]:
        regions = [row for row in content["annotations"] if row["image_id"] == image["id"]]
        single += [(said[row["id"]], [row["caption"]]) for row in regions]
        left = [row for row in regions if row["bbox"][0] < row["bbox"][2] and row["bbox"][1] < row["bbox"][3]]
        boxes = np.array([row["bbox"] for row in left], dtype=np.float64).reshape(-1, 4)
        references = merged_references(boxes, [row["caption"] for row in left])
        merged += [(said[row["id"]], own) for row, own in zip(left, references, strict=True)]
    for name, pairs in (("per_box_single_reference", single), ("merged_references_iou0.7", merged)):
        got = score_captions([caption for caption, _ in pairs], [references for _, references in pairs])
        want = golden["expected"][name]
        bleu = [got[f"bleu{order}"] for order in range(1, 5)]
        report.check(f"regions {name}", "BLEU", bleu, want["BLEU-4"], REGIONS)
        for theirs, ours in FIGURES.items():
            if ours in got:
                report.check(f"regions {name}", theirs, got[ours], want[theirs], REGIONS)
            else:
                report.skip(f"regions {name}", f"no {theirs} here")
    note = f"differs on purpose: the published merge loses {len(single) - len(merged)} of {len(single)} regions"
    report.skip("regions merged_references_iou0.7", note)


def check_densecap_eval(report: Report, path: Path) -> None:
    """The published evaluator with made-up METEOR scores; it takes line breaks out of true captions."""
    golden = json.loads(path.read_text())
    truths, detections = _images(golden["dataset"] | {"predictions": golden["predictions"]})
    for case, outputs in golden["outputs"].items():
        name = f"densecap_eval {case}"
        if case.endswith("ignore0"):
            report.skip(name, "a switch that no published configuration sets: empty true captions are never right")
            continue
        rows = outputs.get("meteor_inputs")
        given = {(row["candidate"], tuple(row["references"])): row["score"] for row in rows or []}
        meteor = _given(given) if rows else None
        _check_scenic(report, name, dense_captioning_scores(truths, detections, meteor), outputs["results"])
        if rows:
            got = [reference_regions(truth) for truth in truths]
            want = [outputs["merged_gts"][str(image["id"])] for image in golden["dataset"]["images"]]
            boxes = _corners([group["bbox"] for groups in want for group in groups])
            report.check(name, "merged boxes", np.concatenate([own.boxes for own in got]), boxes, DENSE)
            differing = [own.captions for own in got] != [[group["captions"] for group in groups] for groups in want]
            report.check(name, "merged captions differ", differing, False, 0.0)


def _given(scores: dict[tuple[str, tuple[str, ...]], float]) -> Meteor:
    return lambda captions, references: np.array(
        [scores[caption, tuple(own)] for caption, own in zip(captions, references, strict=True)]
    )


def _score_together(cases: list[tuple[list[TrueRegions], list[DetectedRegions], Protocol]]) -> list[DenseScores]:
    """The Java program starts once, since that costs more than what it does."""
    asked: dict[tuple[str, tuple[str, ...]], float] = {}

    def note(captions: Sequence[str], references: Sequence[Sequence[str]]) -> NDArray[np.float64]:
        asked.update({(caption, tuple(own)): 0.0 for caption, own in zip(captions, references, strict=True)})
        return np.zeros(len(captions))

    for truths, detections, protocol in cases:
        dense_captioning_scores(truths, detections, note, protocol)
    values = meteor_score(meteor_statistics([caption for caption, _ in asked], [list(own) for _, own in asked]))
    meteor = _given(dict(zip(asked, values.tolist(), strict=True)))
    return [dense_captioning_scores(truths, detections, meteor, protocol) for truths, detections, protocol in cases]


def _check_groups(report: Report, truths: list[TrueRegions], want: dict[str, Any]) -> None:
    """The program's images stand in the order of ours."""
    got, groups = [reference_regions(truth, PUBLISHED.merge) for truth in truths], want["merged_gt"].values()
    boxes = _corners([group["bbox"] for own in groups for group in own])
    report.check("densecap scenic", "merged boxes", np.concatenate([own.boxes for own in got]), boxes, DENSE)
    report.check("densecap scenic", "merged regions", len(boxes), want["num_pos"], 0.0)
    differing = [own.captions for own in got] != [[group["captions"] for group in own] for own in groups]
    report.check("densecap scenic", "merged captions differ", differing, False, 0.0)


def _check_scenic(report: Report, name: str, scores: DenseScores, want: dict[str, float]) -> None:
    detection = [want[f"mAP_detection_iou{iou}"] for iou in IOU_THRESHOLDS]
    report.check(name, "detection AP", scores.detection_average_precisions, detection, DENSE)
    report.check(name, "detection mAP", scores.detection_mean_average_precision, want["mAP_detection"], DENSE)
    if scores.average_precisions is not None:
        pairs = [[want[f"mAP_iou{iou}_meteor{meteor:.2f}"] for meteor in METEOR_THRESHOLDS] for iou in IOU_THRESHOLDS]
        report.check(name, "AP", scores.average_precisions, pairs, DENSE)
        report.check(name, "mAP", scores.mean_average_precision, want["mAP"], DENSE)


def _check_breakdown(
    report: Report, name: str, scores: DenseScores, want: dict[str, Any], pair: str, single: str
) -> None:
    """pair, single: how the program names a figure."""
    breakdown = want["ap_breakdown"]
    pairs = [[breakdown[pair.format(iou, f"{m:g}")] for m in METEOR_THRESHOLDS] for iou in IOU_THRESHOLDS]
    detection = [want["det_breakdown"][single.format(iou)] for iou in IOU_THRESHOLDS]
    report.check(name, "AP", scores.average_precisions, pairs, DENSE)
    report.check(name, "mAP", scores.mean_average_precision, want["map"], DENSE)
    report.check(name, "detection AP", scores.detection_average_precisions, detection, DENSE)
    report.check(name, "detection mAP", scores.detection_mean_average_precision, want["detmap"], DENSE)


def _images(content: dict[str, Any]) -> tuple[list[TrueRegions], list[DetectedRegions]]:
    """Line breaks leave true captions without a trace, as in the programs."""
    truths, detections = [], []
    for image in content["images"]:
        true = [row for row in content["annotations"] if row["image_id"] == image["id"]]
        found = [row for row in content["predictions"] if row["image_id"] == image["id"]]
        captions = [row["caption"].replace("\n", "") for row in true]
        scores = np.array([row["score"] for row in found], dtype=np.float64)
        truths.append(TrueRegions(_corners([row["bbox"] for row in true]), captions))
        boxes = _corners([row["bbox"] for row in found])
        detections.append(DetectedRegions(boxes, scores, [row["caption"] for row in found]))
    return truths, detections


def _corners(boxes: list[list[float]]) -> NDArray[np.float64]:
    """x y width height to x0 y0 x1 y1."""
    xywh = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    return np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
