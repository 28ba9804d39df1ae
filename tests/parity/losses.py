"""The losses against the published ones."""

from pathlib import Path

import torch
from torch import Tensor

from pixel_llm.losses import (
    location_distance,
    mask_loss,
    smoothed_cross_entropy,
    supervised_tokens,
    trace_caption_loss,
)
from tests.parity.golden import Golden, read_golden
from tests.parity.report import Report

TOLERANCE = 2e-5
_EOS, _PAD = 2, 0
_UNUSED = {"point_l1", "point_l2", "point_bcast"}


def check_losses(report: Report, path: Path) -> None:
    golden = read_golden(path)
    for case in golden.outputs:
        if case in _UNUSED:
            report.skip(golden.name, f"not built: {case}, an option that no configuration takes")
        elif case.startswith("text"):
            _check_text(report, golden, case)
        elif case.startswith("point"):
            _check_point(report, golden, case)
        else:
            _check_mask(report, golden, case)


def _check_text(report: Report, golden: Golden, case: str) -> None:
    logits = golden.inputs(case, "logits").flatten(0, 1)[:, :-1]
    targets = golden.inputs(case, "gt_text").long().flatten(0, 1)[:, 1:]
    counts = supervised_tokens(targets, _PAD, _EOS)
    if f"{case}/in/mask" in golden.arrays:
        counts &= golden.inputs(case, "mask").flatten()[:, None] > 0
    smoothing = 0.0 if case == "text_nosmooth" else 0.1
    cross_entropy = smoothed_cross_entropy(logits, targets, smoothing)
    nothing = torch.zeros_like(cross_entropy)
    loss = trace_caption_loss(cross_entropy, counts, nothing, nothing > 0, 0.1, "separate")
    report.check(golden.name, f"{case}/text_loss", loss.words, golden.output(case, "text_loss"), TOLERANCE)


def _check_point(report: Report, golden: Golden, case: str) -> None:
    predicted, truth = (golden.inputs(case, name).flatten(0, 1) for name in ("pred", "gt"))
    located = (golden.inputs(case, "pred_valid") > 0) & (golden.inputs(case, "gt_valid") > 0)
    located = located.flatten(0, 1) & (truth.flatten(2) != 0).any(-1)
    distance = location_distance(predicted, truth, torch.ones(len(truth), 2))
    nothing = torch.zeros_like(distance)
    loss = trace_caption_loss(nothing, nothing > 0, distance, located, 1.0, "separate")
    report.check(golden.name, f"{case}/point_loss", loss.locations, golden.output(case, "point_loss"), TOLERANCE)


def _check_mask(report: Report, golden: Golden, case: str) -> None:
    truth = golden.inputs(case, "gt_masks")[..., 0].flatten(0, 1) > 0
    per_image = len(truth) // len(golden.inputs(case, "padding_mask"))
    real: Tensor = golden.inputs(case, "padding_mask").repeat_interleave(per_image, dim=0) > 0
    loss = mask_loss(
        golden.inputs(case, "pred_masks").flatten(0, 1),
        golden.inputs(case, "pred_ious").flatten(0, 1),
        truth,
        golden.inputs(case, "gt_valid").flatten() > 0,
        real,
    )
    names = {"mask_loss": loss.total, "mask_focal_loss": 20 * loss.focal, "mask_dice_loss": loss.dice}
    for name, got in (names | {"mask_iou_pred_loss": loss.iou}).items():
        report.check(golden.name, f"{case}/{name}", got, golden.output(case, name), TOLERANCE)
