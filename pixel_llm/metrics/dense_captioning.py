"""Dense captioning over a whole data set: precision of boxes with their captions, and of boxes alone."""

import logging
from collections.abc import Sequence

from rich.console import Console
from torchmetrics import Metric

from pixel_llm.metrics.coco_ap import coco_box_ap
from pixel_llm.metrics.dense_captioning_scores import (
    PUBLISHED,
    DetectedRegions,
    Protocol,
    TrueRegions,
    dense_captioning_scores,
)
from pixel_llm.metrics.distributed import gather_rows, on_rank_zero, split_rows
from pixel_llm.metrics.jars import JarUnavailable
from pixel_llm.metrics.meteor import count_meteor, meteor_score
from pixel_llm.metrics.region_overlap import Floats

log = logging.getLogger(__name__)


class DenseCaptioningMetrics(Metric):
    """Collects what was found in every image and scores all images of a split together.

    `compute` returns the figures of `dense_figures` by split; it is empty before the first image. An image that
    several ranks (or the padding of a distributed sampler) bring counts once. All ranks must call `compute`; the
    scoring itself happens on rank 0.
    """

    full_state_update = False
    higher_is_better = True

    def __init__(self, protocol: Protocol = PUBLISHED) -> None:
        super().__init__()
        self.protocol = protocol
        self.rows: dict[str, tuple[TrueRegions, DetectedRegions]] = {}

    def update(self, keys: Sequence[str], truths: Sequence[TrueRegions], detections: Sequence[DetectedRegions]) -> None:
        """keys: names SPLIT/IMAGE of the images.  truths: their regions, or none.  detections: what was
        found in them, or nothing; the boxes of both in the same frame, such as pixels of the original image."""
        for key, truth, found in zip(keys, truths, detections, strict=True):
            self.rows.setdefault(key, (truth, found))

    def forward(
        self, keys: Sequence[str], truths: Sequence[TrueRegions], detections: Sequence[DetectedRegions]
    ) -> None:
        """Updates only: precision of one batch would mean nothing."""
        self.update(keys, truths, detections)

    def compute(self) -> dict[str, dict[str, float]]:
        splits = split_rows(gather_rows(self.rows))
        return on_rank_zero(lambda: {split: self._figures(rows) for split, rows in splits.items()})

    def _figures(self, rows: Sequence[tuple[TrueRegions, DetectedRegions]]) -> dict[str, float]:
        return dense_figures([truth for truth, _ in rows], [found for _, found in rows], self.protocol)

    def reset(self) -> None:
        super().reset()
        self.rows = {}


def dense_figures(
    truths: Sequence[TrueRegions],
    detections: Sequence[DetectedRegions],
    protocol: Protocol = PUBLISHED,
    by_threshold: bool = False,
) -> dict[str, float]:
    """truths, detections: of the same images in the same order.  by_threshold: also the figures that `map` is made of.

    Returns shares in [0, 1]: `map`, the mean average precision of boxes with their captions, `detection_map`, the same
    of boxes alone, and COCO's figures, see `coco_box_ap`. Names say where the protocol is not the published one, and
    map is called map_meteor_python where METEOR was not counted by its authors' program. It is absent, and one warning
    says why, where there is no METEOR at all.
    """
    name = "meteor"

    def meteor(captions: Sequence[str], references: Sequence[Sequence[str]]) -> Floats:
        nonlocal name
        name, values = _meteor(captions, references)
        return values

    try:
        scores = dense_captioning_scores(truths, detections, meteor, protocol)
    except JarUnavailable as problem:
        log.warning("the precision of captions is left out: %s", problem)
        scores = dense_captioning_scores(truths, detections, None, protocol)
    figures = {
        "map" if name == "meteor" else f"map_{name}": scores.mean_average_precision,
        "detection_map": scores.detection_mean_average_precision,
    }
    figures |= scores.by_threshold() if by_threshold else {}
    named = {f"{own}{protocol.suffix}": value for own, value in figures.items() if value is not None}
    return named | coco_box_ap(truths, detections)


def _meteor(captions: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[str, Floats]:
    """The name of the program that counted, and METEOR of each caption; a person at a terminal sees that it works."""
    with Console(stderr=True).status(f"METEOR of {len(captions):,} captions"):
        name, counts = count_meteor(captions, references)
    return name, meteor_score(counts)
