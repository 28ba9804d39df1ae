"""CPU seconds of scoring 10,000 referring expressions, against decoding the pictures that they are about.

    python -m benchmarks.referring_metrics

Masks are wavy blobs at the size of a photo; what was found is the same blob, moved and with another outline.
"""

import io
import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from benchmarks.loader import HEIGHT, WIDTH, decode, photo
from benchmarks.report import cpu_seconds, say, section
from pixel_llm.metrics.referring import ReferringMetrics
from pixel_llm.metrics.referring_scores import Scores, Truth, score
from pixel_llm.run_lengths import mask_box
from pixel_llm.score import compare_predictions, read_predictions
from pixel_llm.structures import Reference, ReferringPrediction

EXPRESSIONS, IMAGES = 10_000, 1_700  # as many to an image as the eight official splits have
DISTINCT, PHOTOS, BATCH = 200, 32, 128

TEXT = f"""{EXPRESSIONS:,} expressions on pictures of {WIDTH} × {HEIGHT} pixels, each with a true and a found box and
mask (run lengths of {{characters:.0f}} characters), in batches of {BATCH}; precision of boxes and masks, cIoU, gIoU and
the figures by kind of all of them. Masks of a model have to be encoded first, whatever scores them. Decoding is by PIL,
of photo-like JPEG files; the eight official splits have 5.8 expressions to an image. The aim is the largest time."""
HEADER = ["work", "CPU s", "aim"]


def blob(rng: np.random.Generator, x: float, y: float, radius: float) -> NDArray[np.uint8]:
    """uint8[HEIGHT, WIDTH], column by column as COCO stores masks: a disc with a wavy outline."""
    rows, columns = np.ogrid[:HEIGHT, :WIDTH]
    angle = np.arctan2(rows - y, columns - x)
    waves = sum(rng.normal(0, 0.1 / k) * np.sin(k * angle + rng.uniform(0, 7)) for k in range(1, 12))
    return np.asfortranarray(np.hypot(rows - y, columns - x) < radius * (1 + waves), dtype=np.uint8)


def run_lengths(mask: NDArray[np.uint8]) -> dict[str, Any]:
    return {"size": [HEIGHT, WIDTH], "counts": coco_mask.encode(mask)["counts"].decode()}


def masks(rng: np.random.Generator) -> tuple[list[NDArray[np.uint8]], list[NDArray[np.uint8]]]:
    """True ones, and what was found for them."""
    true, found = [], []
    for _ in range(DISTINCT):
        x, y, radius = rng.uniform(100, WIDTH - 100), rng.uniform(100, HEIGHT - 100), rng.uniform(20, 150)
        true.append(blob(rng, x, y, radius))
        found.append(blob(rng, x + rng.normal(0, 5), y + rng.normal(0, 5), radius))
    return true, found


def expression(number: int, true: dict[str, Any], found: dict[str, Any]) -> tuple[Reference, ReferringPrediction]:
    x0, y0, x1, y1 = mask_box(true)
    target = (x0 / WIDTH, y0 / HEIGHT, x1 / WIDTH, y1 / HEIGHT)
    key, kind = f"benchmark/{number}", ("relation", "attributes", "place")[number % 3]
    box = tuple(map(float, mask_box(found)))
    reference = Reference(key, "it", split="benchmark", kind=kind, targets=[target], mask=true)
    return reference, ReferringPrediction(key, "it", (box[0], box[1], box[2], box[3]), found)


def evaluate(references: list[Reference], predictions: list[ReferringPrediction]) -> Scores:
    """What a test run does with its answers."""
    metric = ReferringMetrics()
    for start in range(0, len(references), BATCH):
        part = slice(start, start + BATCH)
        metric.update(references[part], predictions[part], [(HEIGHT, WIDTH)] * len(references[part]))
    return metric.compute()


def score_file(file: Path, truths: dict[str, Truth]) -> Scores:
    """What `pixel-llm score` does with a file, once it has read the annotations."""
    return score(compare_predictions(file, read_predictions(file), truths).values())


def seconds_of_decoding(rng: np.random.Generator) -> float:
    """For all pictures, from some of them."""
    jpegs = []
    for _ in range(PHOTOS):
        buffer = io.BytesIO()
        Image.fromarray(photo(rng)).save(buffer, "JPEG", quality=90)
        jpegs.append(buffer.getvalue())
    return cpu_seconds(lambda: decode(jpegs)) * IMAGES / PHOTOS


def measure(file: Path) -> str:
    rng = np.random.default_rng(0)
    say(f"   making {DISTINCT} pairs of masks")
    true, found = masks(rng)
    known = [(run_lengths(a), run_lengths(b)) for a, b in zip(true, found, strict=True)]
    made = [expression(i, *known[i % DISTINCT]) for i in range(EXPRESSIONS)]
    references, predictions = [reference for reference, _ in made], [prediction for _, prediction in made]
    boxes = [ReferringPrediction(p.key, p.query, p.box) for p in predictions]
    truths = {
        r.key: Truth(r.split, r.kind, (HEIGHT, WIDTH), [mask_box(r.mask)], r.mask) for r in references if r.mask
    }
    file.write_text("".join(json.dumps(asdict(prediction)) + "\n" for prediction in predictions))
    encoding = cpu_seconds(lambda: [run_lengths(mask) for mask in found]) * EXPRESSIONS / DISTINCT
    works = (
        ("boxes", cpu_seconds(lambda: evaluate(references, boxes)), ""),
        ("boxes and masks", cpu_seconds(lambda: evaluate(references, predictions)), "less than decoding"),
        ("boxes and masks from a file, every line checked", cpu_seconds(lambda: score_file(file, truths)), ""),
        ("encoding the masks that were found", encoding, ""),
        (f"decoding {IMAGES:,} pictures", seconds_of_decoding(rng), ""),
    )
    rows = [(name, f"{seconds:.2f}", aim) for name, seconds, aim in works]
    for row in rows:
        say(f"   {row[0]}: {row[1]} s")
    characters = float(np.mean([len(mask["counts"]) for pair in known for mask in pair]))
    return section("Referring metrics", TEXT.format(characters=characters), HEADER, rows)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        print(measure(Path(folder) / "predictions.jsonl"))


if __name__ == "__main__":
    main()
