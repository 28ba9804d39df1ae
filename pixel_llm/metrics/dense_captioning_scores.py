"""Dense captioning: mean average precision of boxes with captions (Johnson et al., DenseCap, CVPR 2016).

Free of torch, so that a command that only scores files starts at once.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pixel_llm.metrics.region_overlap import MERGE_IOU, TIE, Floats, Indices, box_ious, merge_groups

IOU_THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)
METEOR_THRESHOLDS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25)
RECALL_POINTS = 100  # 0, 0.01 .. 0.99: the loop of the first program stops before 1

Meteor = Callable[[Sequence[str], Sequence[Sequence[str]]], Floats]  # captions, references of each -> [0, 1]


@dataclass(frozen=True)
class Protocol:
    """How true regions are prepared and matched, where published programs differ.

    merge: true regions that overlap with an IoU of 0.7 or more are one, with all their captions as references.
    lua_compat: as the program of DenseCap, with which GRiT is scored, too: the first detection of an image that
        overlaps nothing takes the last true region away (an index of -1 means the last element there).
    """

    merge: bool = True
    lua_compat: bool = False

    def __str__(self) -> str:
        references = f"regions merged at IoU {MERGE_IOU}" if self.merge else "single reference regions"
        return references + (", matched as the Lua program does" if self.lua_compat else "")

    @property
    def suffix(self) -> str:
        """For names of figures: empty for the protocol that published code shares."""
        return ("" if self.merge else "_single_reference") + ("_lua_compat" if self.lua_compat else "")


PUBLISHED = Protocol()


@dataclass(frozen=True, eq=False)
class TrueRegions:
    """Regions of one image. boxes: float64[G, 4], x0 y0 x1 y1 in pixels.  captions: a phrase for each."""

    boxes: Floats
    captions: Sequence[str]

    @classmethod
    def of(cls, regions: Iterable[tuple[Sequence[float], str]]) -> "TrueRegions":
        """regions: box and phrase of each, in any number."""
        rows = list(regions)
        return cls(_boxes([box for box, _ in rows]), [phrase for _, phrase in rows])


@dataclass(frozen=True, eq=False)
class DetectedRegions:
    """What was found in one image. boxes: float64[D, 4], as the true ones.  scores: float64[D], any scale.
    captions: what was said of each."""

    boxes: Floats
    scores: Floats
    captions: Sequence[str]

    @classmethod
    def of(cls, regions: Iterable[tuple[Sequence[float], float, str]]) -> "DetectedRegions":
        """regions: box, score and caption of each, in any number."""
        rows = list(regions)
        scores = np.array([score for _, score, _ in rows], dtype=np.float64)
        return cls(_boxes([box for box, *_ in rows]), scores, [caption for *_, caption in rows])


@dataclass(frozen=True, eq=False)
class DenseScores:
    """The figures of a data set, all in [0, 1].

    average_precisions: float64[5, 6], by `IOU_THRESHOLDS` and `METEOR_THRESHOLDS`; None without a METEOR.
    detection_average_precisions: float64[5], whatever was said.
    """

    average_precisions: Floats | None
    detection_average_precisions: Floats

    @property
    def mean_average_precision(self) -> float | None:
        return None if self.average_precisions is None else float(self.average_precisions.mean())

    @property
    def detection_mean_average_precision(self) -> float:
        return float(self.detection_average_precisions.mean())

    def by_threshold(self) -> dict[str, float]:
        """The average precision at each threshold of IoU, and at each pair of one of IoU and one of METEOR."""
        detection = zip(IOU_THRESHOLDS, self.detection_average_precisions.tolist(), strict=True)
        found = {f"detection_ap_iou{iou}": value for iou, value in detection}
        if self.average_precisions is not None:
            for iou, row in zip(IOU_THRESHOLDS, self.average_precisions.tolist(), strict=True):
                pairs = zip(METEOR_THRESHOLDS, row, strict=True)
                found |= {f"ap_iou{iou}_meteor{meteor:.2f}": value for meteor, value in pairs}
        return found


class References(NamedTuple):
    """True regions as they are matched. boxes: float64[R, 4].  captions: for each region one or more."""

    boxes: Floats
    captions: list[list[str]]


class Matches(NamedTuple):
    """Detections of one image held against its true regions.

    target: int[D], the region that each overlaps most, the first of equals.
    iou: float64[D], with that region; 0 where there is none.
    first: bool[D], no better detection has the same target, whatever the overlap; ties: the earlier one is better.
    """

    target: Indices
    iou: Floats
    first: NDArray[np.bool_]


def dense_captioning_scores(
    truths: Sequence[TrueRegions],
    detections: Sequence[DetectedRegions],
    meteor: Meteor | None,
    protocol: Protocol = PUBLISHED,
) -> DenseScores:
    """truths, detections: of the same images in the same order, which decides between equal scores.

    meteor: called once, with those captions that can make a difference; None: detection figures only.
    Detections of an image without true regions are false positives. Where no image has any, the figures are 0.
    A true region with an empty caption asks for no words: any caption is right for it, as in the code published with
    PixelLLM.
    """
    references = [reference_regions(truth, protocol.merge) for truth in truths]
    matches = [match(found, own.boxes, protocol.lua_compat) for found, own in zip(detections, references, strict=True)]
    order = np.argsort(-np.concatenate([np.zeros(0), *(found.scores for found in detections)]), kind="stable")
    iou = np.concatenate([np.zeros(0), *(np.where(own.first, own.iou, -1.0) for own in matches)])
    positives = sum(len(own.boxes) for own in references)
    located = [iou[order] >= threshold - TIE for threshold in IOU_THRESHOLDS]
    detection = np.array([average_precision(hits, positives) for hits in located])
    if meteor is None:
        return DenseScores(None, detection)
    said = np.concatenate([np.zeros(0), *_meteors(meteor, detections, references, matches)])[order]
    precision = [[average_precision(hits & (said > t), positives) for t in METEOR_THRESHOLDS] for hits in located]
    return DenseScores(np.array(precision), detection)


def reference_regions(truth: TrueRegions, merge: bool = True) -> References:
    """The regions that are to be found: of groups that overlap the mean box and all captions, or all as they are."""
    if not merge:
        return References(truth.boxes, [[caption] for caption in truth.captions])
    groups = merge_groups(truth.boxes)
    sizes = np.array([len(group) for group in groups], dtype=np.int64)
    members = truth.boxes[np.concatenate([np.zeros(0, np.int64), *groups])]
    sums = np.add.reduceat(members, np.cumsum(sizes) - sizes) if groups else members
    return References(sums / sizes[:, None], [[truth.captions[i] for i in group] for group in groups])


def match(detections: DetectedRegions, boxes: Floats, lua_compat: bool = False) -> Matches:
    """Every detection takes the true region that it overlaps most, also one that is taken and however little it is.

    boxes: float64[R, 4], true regions.
    """
    if not len(boxes):
        nothing = np.zeros(len(detections.scores))
        return Matches(nothing.astype(np.int64), nothing, nothing > 0)
    overlap = box_ious(detections.boxes, boxes)
    iou = overlap.max(axis=1)
    target = np.where(iou > 0, overlap.argmax(axis=1), len(boxes) - 1 if lua_compat else -1)
    order = np.argsort(-detections.scores, kind="stable")
    first = np.zeros(len(iou), dtype=bool)
    first[order[np.unique(target[order], return_index=True)[1]]] = True
    return Matches(target, iou, first)


def average_precision(hits: NDArray[np.bool_], positives: int) -> float:
    """bool[N], best detection first, of which each hit finds another one of all positives: the mean over
    `RECALL_POINTS` of the best precision at that recall or a higher one; 0 without positives."""
    places = np.flatnonzero(hits)
    precision = np.arange(1, len(places) + 1) / (places + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    needed = -(-np.arange(RECALL_POINTS) * positives // RECALL_POINTS)  # hits, rounded up, for each recall
    reached = needed[needed <= len(places)] if positives else needed[:0]
    return float(best[np.maximum(reached, 1) - 1].sum() / RECALL_POINTS) if len(places) else 0.0


def _meteors(
    meteor: Meteor, detections: Sequence[DetectedRegions], references: Sequence[References], matches: Sequence[Matches]
) -> list[Floats]:
    """METEOR of each detection's caption with its target's; 0 where it cannot make a difference."""
    scores = [np.zeros(len(found.scores)) for found in detections]
    asked: list[tuple[int, int]] = []
    captions, wanted = [], []
    for image, (found, truth, own) in enumerate(zip(detections, references, matches, strict=True)):
        for i in np.flatnonzero(own.first & (own.iou >= min(IOU_THRESHOLDS) - TIE)).tolist():
            if "" in (texts := truth.captions[own.target[i]]):
                scores[image][i] = 1.0
                continue
            asked.append((image, i))
            captions.append(found.captions[i])
            wanted.append(texts)
    for (image, i), value in zip(asked, meteor(captions, wanted), strict=True):
        scores[image][i] = value
    return scores


def _boxes(rows: Sequence[Sequence[float]]) -> Floats:
    return np.array(rows, dtype=np.float64).reshape(-1, 4)
