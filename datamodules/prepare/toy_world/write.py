"""Writing the toy world to disk as raw data sets: image folders and official annotation files, split by split."""

import json
import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from datamodules.prepare.toy_world import annotations
from datamodules.prepare.toy_world.render import render, to_jpeg
from datamodules.prepare.toy_world.scene import SPLITS, make_scene
from datamodules.prepare.workers import in_order_of_completion

VERSION = 3  # of the generator: figures are comparable between commits that agree on it

Progress = Callable[[Iterable[Any], int, str], Iterable[Any]]


def write_toy_world(out: Path, sizes: dict[str, int], seed: int, workers: int, progress: Progress) -> None:
    """Write `images/<split>/*.jpg` and `annotations/*` for each split's number of images.

    The files depend on seed and sizes only, not on the workers. A split whose annotations exist with the same seed
    and size is kept; annotations are written last and renamed into place, so an interrupted run goes on.
    progress: wraps an iterable of known length with a description, for a progress bar.
    """
    for split in SPLITS:
        settings = _compact({"version": VERSION, "seed": seed, "images": sizes[split]})
        stamp = out / "annotations" / f"{split}.settings.json"
        if stamp.is_file() and stamp.read_text() == settings:
            continue
        (out / "images" / split).mkdir(parents=True, exist_ok=True)
        stamp.parent.mkdir(exist_ok=True)
        _write_split(out, split, sizes[split], seed, workers, progress)
        _write_text(stamp, settings)


def _write_split(out: Path, split: str, size: int, seed: int, workers: int, progress: Progress) -> None:
    images: list[dict[str, Any]] = []
    narratives: list[str] = []
    instances: list[dict[str, Any]] = []
    captions: list[dict[str, Any]] = []
    work = partial(_write_image, out / "images", split, seed)
    made = in_order_of_completion(work, range(1, size + 1), workers)
    by_id = sorted(progress(made, size, f"toy world, {split}"), key=lambda one: one[0]["id"])
    for image, narrative, objects, texts in by_id:
        images.append(image)
        narratives.append(narrative)
        instances += objects
        captions += texts
    folder = out / "annotations"
    _write_text(folder / f"toy_{split}_localized_narratives.jsonl", "".join(narratives))
    objects_file = {"images": images, "annotations": instances, "categories": annotations.CATEGORIES}
    _write_text(folder / f"instances_{split}.json", _compact(objects_file))
    _write_text(folder / f"captions_{split}.json", _compact({"images": images, "annotations": captions}))


def _write_image(images: Path, split: str, seed: int, image_id: int) -> tuple[dict[str, Any], str, list, list]:
    scene = make_scene(seed, split, image_id)
    pixels, masks = render(scene)
    (images / annotations.image_file(image_id, split)).write_bytes(to_jpeg(pixels))
    return (
        annotations.image_record(scene, image_id, split),
        _compact(annotations.localized_narrative(scene, image_id, split)) + "\n",
        annotations.instances(scene, masks, image_id),
        annotations.captions(scene, image_id),
    )


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _write_text(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    os.replace(part, path)
