"""Average precision of boxes as COCO defines it, whatever was said of them."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.detection import MeanAveragePrecision

from pixel_llm.metrics.dense_captioning_scores import DetectedRegions, TrueRegions

_DETECTIONS = 100  # of an image at most, the best ones, as COCO counts
_NAMES = {"map": "ap", "map_50": "ap50", "map_75": "ap75", f"mar_{_DETECTIONS}": "recall"}


def coco_box_ap(truths: Sequence[TrueRegions], detections: Sequence[DetectedRegions]) -> dict[str, float]:
    """All boxes are of one category, and every true region is one, also where several are almost the same.

    truths, detections: of the same images in the same order.
    Returns `ap`, the mean over IoU thresholds 0.5, 0.55 .. 0.95, `ap50`, `ap75`, and `recall`, the mean share of true
    regions found at these thresholds by 100 detections of an image; all in [0, 1]. Empty without any true region.
    """
    if not any(len(truth.boxes) for truth in truths):
        return {}
    metric = MeanAveragePrecision(
        max_detection_thresholds=[1, 10, _DETECTIONS],
        backend="faster_coco_eval",
        sync_on_compute=False,  # the caller has gathered the images of all ranks
    )
    metric.warn_on_many_detections = False
    for truth, found in zip(truths, detections, strict=True):
        scores = torch.from_numpy(np.nan_to_num(found.scores))
        metric.update([{**_boxes(found.boxes), "scores": scores}], [_boxes(truth.boxes)])
    figures = metric.compute()
    return {ours: float(figures[theirs]) for theirs, ours in _NAMES.items()}


def _boxes(boxes: NDArray[np.float64]) -> dict[str, Tensor]:
    """A box with a coordinate that is not finite becomes one without an area, which overlaps nothing."""
    finite = np.isfinite(boxes).all(axis=1, keepdims=True)
    return {
        "boxes": torch.from_numpy(np.where(finite, boxes, 0.0)),
        "labels": torch.zeros(len(boxes), dtype=torch.long),
    }
