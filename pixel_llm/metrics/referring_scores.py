"""Scores of referring expressions: what was found for each one against the truth, and the figures of whole splits.

Free of torch, so that a command that only scores files starts at once.
"""

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from pixel_llm.run_lengths import Rle, mask_box, mask_overlap
from pixel_llm.tables import aligned

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)
SPLITS = (
    *("refcoco_unc_val", "refcoco_unc_testA", "refcoco_unc_testB"),
    *("refcocoplus_unc_val", "refcocoplus_unc_testA", "refcocoplus_unc_testB"),
    *("refcocog_umd_val", "refcocog_umd_test"),
)
_COLUMNS = (
    *("expressions", "p50", "p70", "p90", "box_iou"),
    *("ciou", "giou", "mask_p50", "mask_p70", "mask_p90", "mask_box_p50", "n_acc", "t_acc"),
)
_TIE = 1e-9  # coordinates that went through [0, 1] and back are a few units of their last place off

Box = Sequence[float]
Scores = dict[str, dict[str, float]]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Truth:
    """What an expression means.

    split: the figures are reported by it.  kind: and by it within the split, where it is not empty.
    size: (height, width) of the original image; None where the annotations do not say, and boxes are not clipped.
    boxes: x0 y0 x1 y1 of the objects that are meant, in pixels of the original image: one, several, or none.
    mask: COCO run-length encoding of their union; None where the data have none.
    """

    split: str
    kind: str
    size: tuple[int, int] | None
    boxes: Sequence[Box]
    mask: Rle | None = None


@dataclass(frozen=True)
class Answer:
    """What was found for it: a box in pixels, a mask at the size of the original image, or one of the two.

    nothing: whether the image is said to hold no such thing; None where the system does not say, in which case an
    empty mask says so.
    """

    box: Box | None = None
    mask: Rle | None = None
    nothing: bool | None = None


class Row(NamedTuple):
    """The comparison of one answer with its truth, from which all figures are made.

    targets: number of objects that are meant.
    box_iou: of the answered box with the only target; None without such a box or target, NaN for a box that is no box.
    mask_box_iou: the same of the box around the answered mask.
    intersection, union: pixels of the answered mask and the true one; None where the true one is unknown.
    segmented: a mask was answered.  nothing: nothing is said to be meant; None without any answer.
    """

    split: str
    kind: str
    targets: int
    box_iou: float | None
    mask_box_iou: float | None
    intersection: int | None
    union: int | None
    segmented: bool
    nothing: bool | None


def box_iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes x0 y0 x1 y1, in float64: without epsilon and without +1 pixel; 0 where
    either has no area or its corners in the wrong order, NaN where a coordinate is not finite.

    Not the generalised IoU, which subtracts the empty part of the common hull and is stricter.
    """
    if not all(math.isfinite(v) for v in (*a, *b)):
        return math.nan
    area, other = (max(0.0, x1 - x0) * max(0.0, y1 - y0) for x0, y0, x1, y1 in (a, b))
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if min(width, height, area, other) <= 0:
        return 0.0
    return width * height / (area + other - width * height)


def clip_box(box: Box, size: tuple[int, int] | None) -> Box:
    """The part of a box x0 y0 x1 y1 inside an image of (height, width), if that is known; what is not finite stays."""
    if size is None:
        return box
    limits = (size[1], size[0], size[1], size[0])
    clipped = ((min(max(value, 0.0), limit), value) for value, limit in zip(box, limits, strict=True))
    return [inside if math.isfinite(value) else value for inside, value in clipped]


def compare(truth: Truth, answer: Answer | None) -> Row:
    """Holds an answer, or the lack of one, against the truth.

    An answered box is clipped to the image. An answer that denies explicitly that anything is meant has no box, and
    its mask meets the truth nowhere.
    Raises ValueError where the answered mask has another size than the image.
    """
    box, mask, nothing = (answer.box, answer.mask, answer.nothing) if answer else (None, None, None)
    denied = nothing is True
    if answer and nothing is None:
        nothing = mask is not None and not coco_mask.area(mask)
    target = truth.boxes[0] if len(truth.boxes) == 1 and not denied else None
    intersection, union = _overlap(truth, mask, denied)
    return Row(
        truth.split,
        truth.kind,
        len(truth.boxes),
        box_iou=box_iou(clip_box(box, truth.size), target) if box is not None and target is not None else None,
        mask_box_iou=box_iou(mask_box(mask), target) if mask is not None and target is not None else None,
        intersection=intersection,
        union=union,
        segmented=mask is not None,
        nothing=nothing,
    )


def _overlap(truth: Truth, mask: Rle | None, denied: bool) -> tuple[int | None, int | None]:
    """Intersection and union as ReLA counts them: nothing that is rightly denied adds to neither, and an object that
    is denied keeps the union with whatever mask was answered."""
    if mask and truth.size and list(mask["size"]) != list(truth.size):
        raise ValueError(f"a mask of {list(mask['size'])} for an image of {list(truth.size)} (height, width)")
    if not truth.boxes:
        return 0, int(coco_mask.area(mask)) if mask and not denied else 0
    if truth.mask is None:
        return None, None
    if mask is None:
        return 0, int(coco_mask.area(truth.mask))
    both, either = mask_overlap(mask, truth.mask)
    return (0 if denied else both), either


def score(rows: Iterable[Row], empty_target: float = 1.0, inclusive: bool = False) -> Scores:
    """Figures of every split, the official ones first; all are shares in [0, 1] but for the counts `expressions`.

    expressions: all of the split, answered or not.
    p50 to p90: share of the expressions with exactly one target whose box has an IoU above 0.5 to 0.9.
    box_iou: mean IoU of these boxes.
    ciou: summed intersections over summed unions of the masks of all expressions (also called oIoU, overall IoU).
    giou: mean IoU of the masks of all expressions (also called mIoU); a mask where nothing is meant counts 0, and
        `empty_target` where it is rightly said that nothing is meant.
    mask_p50 to mask_p90: share of the expressions with a target whose mask has an IoU of 0.5 to 0.9 or more.
    mask_box_p50: as p50, of the box around the mask.
    n_acc: share of the expressions without a target of which it is said that nothing is meant.
    t_acc: share of the expressions with a target of which it is not said. Both only where a split has expressions
        without a target or with several.
    expressions_KIND, p50_KIND, ciou_KIND: of the expressions of a kind.

    Box figures are given for a split in which any answer holds a box, mask figures where any holds a mask and a true
    mask is known; an answer that lacks the one or the other, and a missing answer, count as misses in them.
    A box with coordinates that are not finite is a miss, too, and counts as IoU 0; the log says how many there are.
    Expressions whose true mask is unknown are left out of the mask figures.

    empty_target: 1 as LISA and ReLA, 0 as LAVT and the code published with PixelLLM; without effect on data in which
        every expression means something.
    inclusive: also a box IoU of exactly the threshold is a hit.
    """
    splits: dict[str, list[Row]] = {}
    for row in rows:
        splits.setdefault(row.split, []).append(row)
    broken = sum(row.box_iou is not None and math.isnan(row.box_iou) for own in splits.values() for row in own)
    if broken:
        log.warning("%d boxes have coordinates that are not finite: they count as misses", broken)
    return {name: _split_figures(splits[name], empty_target, inclusive) for name in sorted(splits, key=_official)}


def _official(split: str) -> tuple[int, str]:
    """Sorts the official splits first, in the order of published tables."""
    return (SPLITS.index(split) if split in SPLITS else len(SPLITS)), split


def _split_figures(rows: list[Row], empty_target: float, inclusive: bool) -> dict[str, float]:
    boxes = any(row.box_iou is not None for row in rows)
    masks = any(row.segmented for row in rows)

    def figures(own: list[Row]) -> dict[str, float]:
        found: dict[str, float] = {"expressions": len(own)}
        if boxes:
            found |= _box_figures([row.box_iou for row in own if row.targets == 1], inclusive)
        if masks:
            found |= _mask_figures([row for row in own if row.union is not None], empty_target)
            around = _box_figures([row.mask_box_iou for row in own if row.targets == 1], inclusive)
            found |= {"mask_box_p50": around["p50"]} if around else {}
        return found

    found = figures(rows) | _denial_figures(rows)
    for kind in sorted({row.kind for row in rows} - {""}):
        part = figures([row for row in rows if row.kind == kind])
        found |= {f"{name}_{kind}": part[name] for name in ("expressions", "p50", "ciou") if name in part}
    return found


def _box_figures(ious: Sequence[float | None], inclusive: bool) -> dict[str, float]:
    if not ious:
        return {}
    iou = np.nan_to_num(np.array(ious, dtype=np.float64))  # None becomes NaN: both are misses
    hits = {t: iou >= t - _TIE if inclusive else iou > t + _TIE for t in THRESHOLDS}
    return {f"p{100 * t:.0f}": float(hit.mean()) for t, hit in hits.items()} | {"box_iou": float(iou.mean())}


def _mask_figures(rows: list[Row], empty_target: float) -> dict[str, float]:
    meant = np.array([row.targets > 0 for row in rows], dtype=bool)
    if not meant.any():
        return {}
    intersection = np.array([row.intersection for row in rows], dtype=np.int64)
    union = np.array([row.union for row in rows], dtype=np.int64)
    denied = np.array([row.nothing is True for row in rows])
    iou = np.where(meant, intersection / np.maximum(union, 1), np.where(denied, empty_target, 0.0))
    figures = {"ciou": float(intersection.sum() / max(1, union.sum())), "giou": float(iou.mean())}
    return figures | {f"mask_p{100 * t:.0f}": float((iou[meant] >= t).mean()) for t in THRESHOLDS}


def _denial_figures(rows: list[Row]) -> dict[str, float]:
    if all(row.targets == 1 for row in rows):
        return {}
    n_acc = [row.nothing is True for row in rows if row.targets == 0]
    t_acc = [row.nothing is False for row in rows if row.targets > 0]
    figures = {"n_acc": n_acc, "t_acc": t_acc}
    return {name: sum(right) / len(right) for name, right in figures.items() if right}


def referring_table(scores: Scores, note: str = "") -> str:
    """All splits as one table for people: shares in percent, kinds of expressions below their split, the note last."""
    columns = [name for name in _COLUMNS if any(name in figures for figures in scores.values())]
    lines = [["split", *columns]]
    for split, figures in scores.items():
        kinds = [name.removeprefix("expressions_") for name in figures if name.startswith("expressions_")]
        lines.append([split, *(_cell(figures, name) for name in columns)])
        lines += [[f"  {kind}", *(_cell(figures, f"{name}_{kind}") for name in columns)] for kind in kinds]
    return "\n".join([*aligned(lines), *([note] if note else [])])


def expressions_note(asked: int | None) -> str:
    """What a table says of the expressions of each image: that only so many were asked; None: all."""
    return "all expressions" if asked is None else f"the first {asked} expressions of each image"


def _cell(figures: dict[str, float], name: str) -> str:
    if name not in figures:
        return ""
    return f"{figures[name]:,.0f}" if name.startswith("expressions") else f"{100 * figures[name]:.1f}"
