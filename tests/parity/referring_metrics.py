"""Compares the figures of referring expressions with those that the programs behind published tables print."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torchvision.ops import generalized_box_iou

from pixel_llm.metrics.referring_scores import THRESHOLDS, Answer, Row, Truth, box_iou, compare, score
from pixel_llm.run_lengths import mask_box
from tests.parity.report import Report

EXACT = 0.0
SUMMED = 1e-6  # scenic and LISA add up to 1e-5 to a denominator, in float32
PRINTED = 1e-4  # LAVT prints percents with two decimals


def compare_referring_boxes(report: Report, folder: Path) -> None:
    """Intersection over union, and what another rule makes of the same boxes."""
    name = "referring boxes"
    expected = json.loads((folder / "refer_expected.json").read_text())
    inputs = json.loads((folder / "refer_boxes_inputs.json").read_text())["pairs"]
    pairs = [(pair["pred"], pair["gt"]) for pair in inputs]
    want = expected["own_boxes"]
    report.check(name, "IoU per pair", [box_iou(*pair) for pair in pairs], want["iou"], SUMMED)
    # These boxes belong to no image, so they are not clipped to one.
    rows = [Row("", "", 1, box_iou(*pair), None, None, None, segmented=False, nothing=False) for pair in pairs]
    above, from_ = score(rows)[""], score(rows, inclusive=True)[""]
    report.check(name, "mean IoU", above["box_iou"], want["mean_iou"], SUMMED)
    report.check(name, "P@0.5, above", above["p50"], want["P@0.5_gt"], EXACT)
    report.check(name, "P@0.5, from", from_["p50"], want["P@0.5_ge"], EXACT)
    report.check(name, "P@0.5, scenic", above["p50"], expected["scenic"]["boxes"]["box_Precision@1"], SUMMED)
    other = np.mean([_generalised_iou(*pair) >= 0.5 for pair in pairs])
    report.check(name, "generalised IoU from 0.5, MDETR", other, expected["mdetr_P@1_giou_ge_0.5"], EXACT)
    if from_["p50"] == other:
        report.fail(name, "", "IoU and generalised IoU agree: these boxes cannot tell them apart")


def compare_referring_masks(report: Report, folder: Path) -> None:
    """Intersections, unions and the figures of each program, which differ where a mask is empty."""
    name = "referring masks"
    expected = json.loads((folder / "refer_expected.json").read_text())
    with np.load(folder / "refer_masks_inputs.npz") as inputs:
        predicted, truth = (_run_lengths(inputs, kind) for kind in ("pred", "gt"))
    _check_run_lengths(report, predicted, truth, expected["pycocotools"])
    rows = [_row(*pair) for pair in zip(predicted, truth, strict=True)]
    own = expected["own_masks"]
    report.check(name, "intersections", [row.intersection for row in rows], own["I"], EXACT)
    report.check(name, "unions", [row.union for row in rows], own["U"], EXACT)
    figures = _figures_of_all_programs(rows)
    wanted = {"own": own} | {program: expected[program] for program in ("lavt", "rela", "lisa")}
    wanted["scenic"] = expected["scenic"]["masks"]
    for program, got in figures.items():
        want = [wanted[program][key] for key in got]
        report.check(name, program, list(got.values()), want, PRINTED if program == "lavt" else SUMMED)


def _figures_of_all_programs(rows: list[Row]) -> dict[str, dict[str, float]]:
    """Program -> its name of a figure -> ours by its rules. P@t of all but ReLA counts empty truths as misses."""
    ones, zeros = score(rows, empty_target=1)[""], score(rows, empty_target=0)[""]
    precision = {t: ones[f"mask_p{100 * t:.0f}"] for t in THRESHOLDS}
    of_all = sum(row.targets > 0 for row in rows) / len(rows)
    return {
        "own": {
            "cIoU": ones["ciou"],
            "mIoU_empty0": zeros["giou"],
            "gIoU_empty1": ones["giou"],
            **{f"P@{t}_ge": of_all * share for t, share in precision.items()},
        },
        "lavt": {
            "mean_IoU": 100 * zeros["giou"],
            "overall_IoU": 100 * zeros["ciou"],
            **{f"precision@{t}": 100 * of_all * share for t, share in precision.items()},
        },
        "rela": {
            "gIoU": 100 * ones["giou"],
            "cIoU": 100 * ones["ciou"],
            "N_acc": ones.get("n_acc", 0.0),
            "T_acc": ones.get("t_acc", 0.0),
            **{f"Pr@{t}": 100 * precision[t] for t in THRESHOLDS[2:]},
        },
        "lisa": {"giou": ones["giou"], "ciou": ones["ciou"]},
        "scenic": {
            "seg_gIoU": zeros["giou"],
            "seg_cIoU": zeros["ciou"],
            "seg_box_Precision@1": of_all * ones["mask_box_p50"],
        },
    }


def _row(predicted: dict[str, Any], truth: dict[str, Any]) -> Row:
    """The object that is meant is the one that the true mask shows, if it shows any."""
    boxes = [mask_box(truth)] if coco_mask.area(truth) else []
    return compare(Truth("", "", tuple(truth["size"]), boxes, truth), Answer(None, predicted))


def _check_run_lengths(report: Report, predicted: list[Any], truth: list[Any], want: dict[str, Any]) -> None:
    for kind, masks in (("pred", predicted), ("gt", truth)):
        differing = sum(mask["counts"] != text for mask, text in zip(masks, want[f"{kind}_rle"], strict=True))
        report.check("referring masks", f"run lengths that differ, {kind}", differing, 0, EXACT)
        report.check("referring masks", f"areas, {kind}", coco_mask.area(masks), want[f"area_{kind}"], EXACT)
    corners = [[x, y, x + width, y + height] for x, y, width, height in want["gt_bbox_xywh"]]
    report.check("referring masks", "boxes of masks", [mask_box(mask) for mask in truth], corners, EXACT)


def _run_lengths(inputs: Any, kind: str) -> list[dict[str, Any]]:
    """Packed bits as compressed run lengths."""
    packed = np.split(inputs[f"{kind}_bits"], np.cumsum(inputs["nbytes"])[:-1])
    masks = []
    for bits, (height, width) in zip(packed, inputs["shapes"].tolist(), strict=True):
        mask = np.unpackbits(bits)[: height * width].reshape(height, width)
        found = coco_mask.encode(np.asfortranarray(mask))
        masks.append({"size": [height, width], "counts": found["counts"].decode()})
    return masks


def _generalised_iou(a: list[float], b: list[float]) -> float:
    first, second = (torch.tensor([box], dtype=torch.float64) for box in (a, b))
    return generalized_box_iou(first, second).item()
