"""What region captioning and dense captioning learn on the toy world; a part of `benchmarks.results`."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from datamodules.prepare.toy_world.scene import COLOURS, SHAPES, SIZES
from datamodules.records import read_field
from datamodules.regions import Region, read_regions
from datamodules.shard_index import open_shards
from pixel_llm.metrics.dense_captioning import dense_figures
from pixel_llm.metrics.dense_captioning_scores import DetectedRegions, TrueRegions

KINDS = tuple(frozenset(values) for values in (COLOURS, SIZES, SHAPES))


def attributes_right(predictions: Path, shards: Path) -> float:
    """Share of regions whose sentence names colour, size and shape as the true one does (medium size is not said).

    predictions: a `test.jsonl` of region captioning.
    """
    return float(kinds_right(predictions, shards).all(1).mean())


def kinds_right(predictions: Path, shards: Path) -> np.ndarray:
    """bool[regions, 3], whether colour, size and shape are named as in the true sentence; arguments as above."""
    true = {f"{split}/{r.region_id}": r.phrase for split, _, regions in read_images(shards) for r in regions}
    said = {row["key"]: row["caption"] for row in map(json.loads, predictions.read_text().splitlines())}
    pairs = [(attributes(said[key]), attributes(phrase)) for key, phrase in true.items()]
    return np.array([[one == other for one, other in zip(*pair, strict=True)] for pair in pairs])


def attributes(sentence: str) -> list[set[str]]:
    """The words of each kind in a sentence."""
    words = set(sentence.lower().replace(".", " ").split())
    return [words & kind for kind in KINDS]


def shuffled_map(predictions: Path, shards: Path, seed: int) -> float:
    """Dense-captioning mAP of the same boxes and scores when all sentences are dealt out anew.

    predictions: a `test.jsonl` of dense captioning.
    """
    rows = [json.loads(line) for line in predictions.read_text().splitlines()]
    order = np.random.default_rng(seed).permutation(len(rows))
    found: dict[str, list[tuple[list[float], float, str]]] = {}
    for row, other in zip(rows, order, strict=True):
        found.setdefault(row["key"], []).append((row["box"], row["score"], rows[other]["caption"]))
    truths, detections = [], []
    for split, image_id, regions in read_images(shards):
        truths.append(TrueRegions.of((region.box, region.phrase) for region in regions))
        detections.append(DetectedRegions.of(found.get(f"{split}/{image_id}", [])))
    return dense_figures(truths, detections)["map"]


def read_images(shards: Path) -> Iterable[tuple[str, str, list[Region]]]:
    """Split, image id and regions of every image in a folder of shards."""
    for data in read_field(open_shards(shards, ("regions",)), "json"):
        content = json.loads(data)
        yield content["dataset_id"], content["image_id"], read_regions(content)
