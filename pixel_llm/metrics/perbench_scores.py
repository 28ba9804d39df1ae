"""Scores of PerBench: detailed descriptions, multiple choice, and segmentation by words and regions, in two modes.

`paper` counts as the authors' programs do, quirks included, `strict` what the figures' names say:

| | paper | strict |
|---|---|---|
| description | nltk's METEOR with prediction and truth exchanged, mean over all | METEOR 1.5 |
| choice | the right answer occurs anywhere in what was said | the option that is named is the right one |
| segmentation | first mask against first target, over the number of targets | masks and targets matched by IoU |

Where nothing was segmented, `paper` takes a second attempt (`forced_masks`); where that gave nothing either, the area
of the targets is missing in its cIoU, and its gIoU counts 0.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from pixel_llm.metrics.assignment import assignment
from pixel_llm.metrics.captions import score_captions
from pixel_llm.metrics.jars import JarUnavailable
from pixel_llm.metrics.nltk_meteor import nltk_meteor
from pixel_llm.multiple_choice import chosen, without_subject
from pixel_llm.run_lengths import Rle, mask_overlap

Mode = Literal["paper", "strict"]

DESCRIPTION, CHOICE, SEGMENTATION = TASKS = ("description", "choice", "segmentation")
PROTOCOLS: dict[Mode, str] = {
    "strict": "PerBench, strict: METEOR 1.5, the option that is named, masks and targets matched by IoU",
    "paper": "PerBench as published: METEOR with prediction and truth exchanged and without WordNet's synonyms, the "
    "first mask against the first target",
}
_PAPER_METEOR = "meteor_nltk_no_synonyms"
_EPSILON = 1e-5  # in the authors' IoU of a mask

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Truth:
    """task: one of TASKS.  answer: the description, or the right option as the data write it.  options: of a choice.
    targets: the masks to find, of one size."""

    task: str
    answer: str = ""
    options: Sequence[str] = ()
    targets: Sequence[Rle] = ()


@dataclass(frozen=True)
class Answer:
    """text: what was said.  masks, forced_masks: see `AnswerPrediction`; of the size of the targets."""

    text: str = ""
    masks: Sequence[Rle] = ()
    forced_masks: Sequence[Rle] = ()


class Overlap(NamedTuple):
    """Pixels in two masks and in either; IoU 1 where both are empty."""

    intersection: int
    union: int

    @property
    def iou(self) -> float:
        return self.intersection / self.union if self.union else 1.0


Row = tuple[Truth, Answer]


def overall(meteor: float, accuracy: float, ciou: float, giou: float) -> float:
    """The benchmark's score from its figures, all shares in [0, 1]."""
    return (meteor + accuracy + (ciou + giou) / 2) / 3


def perbench_figures(rows: Sequence[Row], mode: Mode) -> dict[str, float]:
    """The figures of the tasks that the rows are of: counts, and shares in [0, 1] (cider in 0 to 10).

    descriptions, choices, segmentations: how many.
    without_mask: to how many of the last the answer has no mask; a second attempt does not count.
    meteor: by METEOR 1.5, called meteor_python where Java is missing, with the other scores of `score_captions`; in
        paper mode meteor_nltk_no_synonyms alone, which is at most what nltk with WordNet would give.
    accuracy: share of the choices that are right.
    ciou: summed intersections over summed unions.  giou: mean IoU, an empty mask for nothing counting 1; of samples,
        in paper mode of targets.  Matched pairs, and in strict mode each mask and target without a partner.
    ciou_union, giou_union: strict mode, of the union of all masks with the union of all targets.
    overall: see `overall`, where all three tasks are there; its name says what kind of METEOR is in it.
    """
    by_task: dict[str, list[Row]] = {task: [] for task in TASKS}
    for row in rows:
        by_task[row[0].task].append(row)
    scorers: dict[str, Callable[[list[Row]], dict[str, float]]] = (
        {DESCRIPTION: _paper_descriptions, CHOICE: _paper_choices, SEGMENTATION: _paper_masks}
        if mode == "paper"
        else {DESCRIPTION: _strict_descriptions, CHOICE: _strict_choices, SEGMENTATION: _strict_masks}
    )
    figures: dict[str, float] = {}
    for task, own in by_task.items():
        figures |= {f"{task}s": len(own)} | scorers[task](own) if own else {}
    if by_task[SEGMENTATION]:
        figures["without_mask"] = sum(not answer.masks for _, answer in by_task[SEGMENTATION])
    meteor = next((name for name in ("meteor", "meteor_python", _PAPER_METEOR) if name in figures), None)
    if meteor and by_task[CHOICE] and by_task[SEGMENTATION]:
        total = overall(figures[meteor], figures["accuracy"], figures["ciou"], figures["giou"])
        figures["overall" if meteor == "meteor" else f"overall_{meteor}"] = total
    return figures


def _described(rows: Sequence[Row]) -> tuple[list[str], list[str]]:
    """What was said and what is true, both without the region's name before it."""
    return [without_subject(answer.text) for _, answer in rows], [without_subject(truth.answer) for truth, _ in rows]


def _paper_descriptions(rows: list[Row]) -> dict[str, float]:
    try:
        return {_PAPER_METEOR: fmean(nltk_meteor(true, said) for said, true in zip(*_described(rows), strict=True))}
    except JarUnavailable as problem:
        log.warning("METEOR is left out: %s", problem)
        return {}


def _strict_descriptions(rows: list[Row]) -> dict[str, float]:
    said, true = _described(rows)
    return score_captions(said, [[one] for one in true])


def _paper_choices(rows: list[Row]) -> dict[str, float]:
    return {"accuracy": fmean(truth.answer in answer.text for truth, answer in rows)}


def _strict_choices(rows: list[Row]) -> dict[str, float]:
    return {"accuracy": fmean(is_right(truth, answer) for truth, answer in rows)}


def is_right(truth: Truth, answer: Answer) -> bool:
    """Whether the answer names the right option and nothing else.

    Where the options are not known it has to be the right answer word for word.
    """
    options = truth.options or [truth.answer]
    right = chosen(truth.answer, options) if truth.options else 0
    return chosen(answer.text, options) == right


def _paper_masks(rows: list[Row]) -> dict[str, float]:
    intersections = unions = targets = 0
    total = 0.0
    for truth, answer in rows:
        targets += len(truth.targets)
        masks = answer.masks or answer.forced_masks
        if masks:
            intersection, union = mask_overlap(masks[0], truth.targets[0])
            intersections, unions = intersections + intersection, unions + union
            total += intersection / (union + _EPSILON) + (union == 0)
    return {"ciou": intersections / max(unions, 1), "giou": total / targets}


def _strict_masks(rows: list[Row]) -> dict[str, float]:
    matched = [matched_overlaps(truth, answer) for truth, answer in rows]
    united = [_union_overlap(truth, answer) for truth, answer in rows]
    return {
        "ciou": _cumulative([pair for pairs in matched for pair in pairs]),
        "giou": fmean(fmean(pair.iou for pair in pairs) for pairs in matched),
        "ciou_union": _cumulative(united),
        "giou_union": fmean(pair.iou for pair in united),
    }


def matched_overlaps(truth: Truth, answer: Answer) -> list[Overlap]:
    """One for each pair of mask and target, such that the sum of their IoU is the largest, and one with nothing for
    each mask or target that is left. An empty mask is as none, so silence is right where all targets are empty."""
    masks, targets = [mask for mask in answer.masks if coco_mask.area(mask)], truth.targets
    pairs = [[Overlap(*mask_overlap(mask, target)) for target in targets] for mask in masks]
    iou = np.array([[pair.iou for pair in row] for row in pairs]).reshape(len(masks), len(targets))
    if len(masks) > len(targets):
        columns, rows = assignment(-iou.T)
    else:
        rows, columns = assignment(-iou)
    left = [mask for i, mask in enumerate(masks) if i not in rows]
    left += [target for i, target in enumerate(targets) if i not in columns]
    return [pairs[i][j] for i, j in zip(rows, columns, strict=True)] + [_alone(mask) for mask in left]


def _union_overlap(truth: Truth, answer: Answer) -> Overlap:
    target = coco_mask.merge(list(truth.targets))
    return Overlap(*mask_overlap(coco_mask.merge(list(answer.masks)), target)) if answer.masks else _alone(target)


def _alone(mask: Rle) -> Overlap:
    return Overlap(0, int(coco_mask.area(mask)))


def _cumulative(overlaps: Sequence[Overlap]) -> float:
    return sum(pair.intersection for pair in overlaps) / max(1, sum(pair.union for pair in overlaps))
