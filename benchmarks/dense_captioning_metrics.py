"""Seconds of scoring dense captions: mean average precision over 5,000 images with 100 detections each.

    python -m benchmarks.dense_captioning_metrics

As many images as the test split of Visual Genome has, with as many regions each as it has on average; half of the
detections lie near a region, with a caption that shares words with the region's.
"""

import os
import time
from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.report import say, section
from pixel_llm.metrics.coco_ap import coco_box_ap
from pixel_llm.metrics.dense_captioning_scores import (
    DetectedRegions,
    TrueRegions,
    dense_captioning_scores,
)
from pixel_llm.metrics.meteor import meteor_score, meteor_statistics, python_meteor_statistics
from pixel_llm.metrics.region_overlap import Floats

IMAGES, DETECTIONS, REGIONS = 5_000, 100, 47
COLOURS = ("red", "blue", "green", "yellow", "white", "black", "brown", "grey", "pink", "purple", "orange", "silver")
THINGS = (
    "ball",
    "cup",
    "man",
    "woman",
    "dog",
    "cat",
    "tree",
    "car",
    "table",
    "chair",
    "window",
    "shirt",
    "sign",
    "lamp",
)
PLACES = ("on the table", "behind the man", "in the background", "on the left", "under a tree", "next to the window")

TEXT = f"""{IMAGES:,} images with {DETECTIONS} detections and {REGIONS} true regions each, which is {{asked:,}} captions
for METEOR out of {IMAGES * DETECTIONS:,}: the others cannot change a figure. METEOR's start is included, and so is the
CPU time of the Java program; `wall s` is by the clock, on cores that may have had other work. The published program
spends about five minutes."""
HEADER = ["work", "CPU s", "wall s", "aim, wall s"]


def phrase(rng: np.random.Generator) -> list[str]:
    return [str(rng.choice(COLOURS)), str(rng.choice(THINGS)), str(rng.choice(PLACES))]


def image(rng: np.random.Generator, phrases: Sequence[list[str]]) -> tuple[TrueRegions, DetectedRegions]:
    corners = rng.uniform(0, 500, (REGIONS, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(20, 200, (REGIONS, 2))], axis=1)
    boxes[:5] = boxes[5:10] + rng.normal(0, 2, (5, 4))  # things that are described twice
    said = [phrases[i] for i in rng.integers(0, len(phrases), REGIONS)]
    target, near = rng.integers(0, REGIONS, DETECTIONS), rng.random(DETECTIONS) < 0.5
    other = [phrases[i] for i in rng.integers(0, len(phrases), DETECTIONS)]
    found = np.where(near[:, None], boxes[target] + rng.normal(0, 12, (DETECTIONS, 4)), rng.permutation(boxes)[target])
    captions = [" ".join((said[t][0], *own[1:])) for t, own in zip(target.tolist(), other, strict=True)]
    scores = np.clip(near * 0.3 + rng.random(DETECTIONS) * 0.7, 0, 1)
    return TrueRegions(boxes, [" ".join(words) for words in said]), DetectedRegions(found, scores, captions)


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """CPU time, that of programs which the work starts included, and time by the clock."""
    start, clock = os.times(), time.perf_counter()
    work()
    return sum(os.times()[:4]) - sum(start[:4]), time.perf_counter() - clock


def measure() -> str:
    rng = np.random.default_rng(0)
    phrases = [phrase(rng) for _ in range(1000)]
    made = [image(rng, phrases) for _ in range(IMAGES)]
    truths, detections = [truth for truth, _ in made], [found for _, found in made]
    asked = 0

    def java(captions: Sequence[str], references: Sequence[Sequence[str]]) -> Floats:
        nonlocal asked
        asked = len(captions)
        return meteor_score(meteor_statistics(captions, references))

    def python(captions: Sequence[str], references: Sequence[Sequence[str]]) -> Floats:
        return meteor_score(python_meteor_statistics(captions, references))

    works = (
        ("precision of boxes alone", lambda: dense_captioning_scores(truths, detections, None), ""),
        ("with captions, METEOR by Java", lambda: dense_captioning_scores(truths, detections, java), "60"),
        ("with captions, METEOR in Python", lambda: dense_captioning_scores(truths, detections, python), ""),
        ("COCO's average precision of the boxes", lambda: coco_box_ap(truths, detections), ""),
    )
    rows = []
    for name, work, aim in works:
        cpu, clock = seconds(work)
        rows.append((name, f"{cpu:.1f}", f"{clock:.1f}", aim))
        say(f"   {name}: {cpu:.1f} CPU s, {clock:.1f} s by the clock")
    return section("Dense captioning metrics", TEXT.format(asked=asked), HEADER, rows)


def main() -> None:
    print(measure())


if __name__ == "__main__":
    main()
