"""Writing the toy world to disk as raw data sets: image folders and official annotation files, split by split."""

import json
import pickle
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from datamodules.formats.perbench import FILES
from datamodules.prepare.toy_world import annotations, refer_annotations, region_annotations
from datamodules.prepare.toy_world.perbench import perbench
from datamodules.prepare.toy_world.refer import refer
from datamodules.prepare.toy_world.refer_several import refer_to_any_number
from datamodules.prepare.toy_world.render import render, to_jpeg, visible_shares
from datamodules.prepare.toy_world.scene import SPLITS, make_scene
from datamodules.prepare.workers import in_order_of_completion
from pixel_llm.whole_files import write_whole

VERSION = 5  # of the generator: figures are comparable between commits that agree on it
PERBENCH_VERSION = 1  # of its questions alone
GROUP_SPLITS = ("val", "test")  # of expressions that mean any number of objects

Progress = Callable[[Iterable[Any], int, str], Iterable[Any]]


@dataclass(frozen=True)
class _Described:
    """All that is written of an image but its pixels, in the words of each format."""

    image: dict[str, Any]
    instances: list[dict[str, Any]]
    captions: list[dict[str, Any]]
    narrative: str
    refs: list[dict[str, Any]]
    grefs: list[dict[str, Any]]
    mdetr: tuple[list[dict[str, Any]], list[dict[str, Any]]]
    regions: dict[str, Any]
    image_data: dict[str, Any]


def write_toy_world(out: Path, sizes: dict[str, int], seed: int, workers: int, progress: Progress) -> None:
    """Write `images/<split>/*.jpg` and `annotations/*` for each split's number of images.

    The files depend on seed and sizes only, not on the workers. A split whose annotations exist with the same seed
    and size is kept; annotations are written last and renamed into place, so an interrupted run goes on. Referring
    data sets hold all splits in one file: they are put together at the end from each split's `refs_*` and `grefs_*`.
    Questions about regions have a version of their own, and a world that lacks them gets them added.
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
    for split in SPLITS:
        versions = {"version": VERSION, "perbench": PERBENCH_VERSION}
        settings = _compact(versions | {"seed": seed, "images": sizes[split]})
        stamp = out / f"annotations/perbench_{split}.settings.json"
        if not stamp.is_file() or stamp.read_text() != settings:
            _write_perbench(out / "annotations", split, seed, workers, progress)
            _write_text(stamp, settings)
    settings = _compact({"version": VERSION, "seed": seed, "images": sizes})
    stamp = out / "annotations/referring.settings.json"
    if not stamp.is_file() or stamp.read_text() != settings:
        _write_referring(out / "annotations")
        _write_text(stamp, settings)


def _write_split(out: Path, split: str, size: int, seed: int, workers: int, progress: Progress) -> None:
    work = partial(_write_image, out / "images", split, seed)
    made = in_order_of_completion(work, range(1, size + 1), workers)
    by_id = sorted(progress(made, size, f"toy world, {split}"), key=lambda one: one.image["id"])
    images = [one.image for one in by_id]
    files: dict[str, Any] = {
        f"instances_{split}.json": _coco(images, [entry for one in by_id for entry in one.instances]),
        f"captions_{split}.json": {"images": images, "annotations": [entry for one in by_id for entry in one.captions]},
        f"toy_unc_{split}_mdetr.json": _coco(
            [entry for one in by_id for entry in one.mdetr[0]], [entry for one in by_id for entry in one.mdetr[1]]
        ),
        f"refs_{split}.json": [ref for one in by_id for ref in one.refs],
        f"toy_{split}_region_descriptions.json": [one.regions for one in by_id],
        f"toy_{split}_image_data.json": [one.image_data for one in by_id],
    }
    if split in GROUP_SPLITS:
        files[f"grefs_{split}.json"] = [ref for one in by_id for ref in one.grefs]
    folder = out / "annotations"
    _write_text(folder / f"toy_{split}_localized_narratives.jsonl", "".join(one.narrative for one in by_id))
    for name, content in files.items():
        _write_text(folder / name, _compact(content))


def _write_image(images: Path, split: str, seed: int, image_id: int) -> _Described:
    scene = make_scene(seed, split, image_id)
    pixels, masks = render(scene)
    (images / annotations.image_file(image_id, split)).write_bytes(to_jpeg(pixels))
    image, instances = annotations.image_record(scene, image_id, split), annotations.instances(scene, masks, image_id)
    visible = visible_shares(scene, masks)
    expressions = refer(scene, visible)
    groups = refer_to_any_number(scene, visible, expressions) if split in GROUP_SPLITS else []
    return _Described(
        image,
        instances,
        annotations.captions(scene, image_id),
        _compact(annotations.localized_narrative(scene, image_id, split)) + "\n",
        refer_annotations.refs(image, instances, expressions, split),
        refer_annotations.grefs(image, instances, groups, split),
        refer_annotations.mdetr(image, instances, expressions, split),
        region_annotations.region_descriptions(scene, instances, visible, image_id, split),
        region_annotations.image_data(scene, image_id, split),
    )


def _write_perbench(folder: Path, split: str, seed: int, workers: int, progress: Progress) -> None:
    """Write the questions about regions, from the split's instances, which have the masks."""
    coco = json.loads((folder / f"instances_{split}.json").read_text())
    instances: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in coco["images"]}
    for instance in coco["annotations"]:
        instances[instance["image_id"]].append(instance)
    asked = in_order_of_completion(partial(_ask, split, seed), instances.items(), workers)
    by_id = dict(progress(asked, len(instances), f"questions about regions, {split}"))
    (folder / f"toy_perbench_{split}").mkdir(exist_ok=True)
    for task, file in FILES.items():
        entries = [entry for image_id in instances for entry in by_id[image_id][task]]
        _write_text(folder / f"toy_perbench_{split}" / file, _compact(entries))


def _ask(split: str, seed: int, image: tuple[int, list[dict[str, Any]]]) -> tuple[int, dict[str, list[dict[str, Any]]]]:
    image_id, instances = image
    return image_id, perbench(make_scene(seed, split, image_id), instances, image_id, split)


def _write_referring(folder: Path) -> None:
    """Write the data sets of referring expressions, which hold all splits, from what was written for each split."""
    refs = pickle.dumps(_joined(folder, "refs", SPLITS), protocol=2)
    grefs = _compact(_joined(folder, "grefs", GROUP_SPLITS)).encode()
    for name, splits, file, data in (
        ("toy", SPLITS, "refs(unc).p", refs),
        ("toy_grefcoco", GROUP_SPLITS, "grefs(unc).json", grefs),
    ):
        (folder / name).mkdir(exist_ok=True)
        _write_text(folder / name / "instances.json", _compact(_joined_instances(folder, splits)))
        write_whole(folder / name / file, data)


def _joined(folder: Path, kind: str, splits: Iterable[str]) -> list[dict[str, Any]]:
    return [ref for split in splits for ref in json.loads((folder / f"{kind}_{split}.json").read_text())]


def _joined_instances(folder: Path, splits: Iterable[str]) -> dict[str, Any]:
    images: list[dict[str, Any]] = []
    instances: list[dict[str, Any]] = []
    for split in splits:
        objects = json.loads((folder / f"instances_{split}.json").read_text())
        images += [refer_annotations.shared_image(image, split) for image in objects["images"]]
        instances += [refer_annotations.shared_instance(instance, split) for instance in objects["annotations"]]
    return _coco(images, instances)


def _coco(images: list[dict[str, Any]], instances: list[dict[str, Any]]) -> dict[str, Any]:
    return {"images": images, "annotations": instances, "categories": annotations.CATEGORIES}


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _write_text(path: Path, text: str) -> None:
    write_whole(path, text.encode())
