"""Small data sets of referring expressions in the forms that they are published in."""

import gzip
import json
import pickle
from pathlib import Path
from typing import Any

Json = dict[str, Any]


def ref(number: int, *sentences: str, image: int = 1, split: str = "val", **changes: Any) -> Json:
    """A ref of the `refer` distribution to the annotation of the same number."""
    entries = [
        {"sent_id": 100 * number + i, "sent": said, "raw": said.upper(), "tokens": said.split()}
        for i, said in enumerate(sentences)
    ]
    return {
        "ref_id": number,
        "ann_id": number,
        "image_id": image,
        "file_name": f"COCO_train2014_{image:012d}_{number}.jpg",
        "split": split,
        "category_id": 1,
        "sent_ids": [entry["sent_id"] for entry in entries],
        "sentences": entries,
        **changes,
    }


def image(number: int, width: int = 40, height: int = 30, **changes: Any) -> Json:
    """An entry of `images` as COCO's training split of 2014 names them."""
    name = f"COCO_train2014_{number:012d}.jpg"
    return {"id": number, "file_name": name, "width": width, "height": height, **changes}


def annotation(number: int, image: int = 1, **changes: Any) -> Json:
    """An object of 10 x 8 pixels, its left edge at its number, with a polygon of its box."""
    x, y = number % 30, 5
    polygon = [x, y, x + 10, y, x + 10, y + 8, x, y + 8]
    return {
        "id": number,
        "image_id": image,
        "bbox": [x, y, 10, 8],
        "category_id": 1,
        "iscrowd": 0,
        "segmentation": [polygon],
        **changes,
    }


def write_refer(
    folder: Path,
    refs: list[Any],
    annotations: list[Json],
    images: list[Json],
    name: str = "refs(unc).p",
    protocol: int = 2,
) -> Path:
    """A folder of the `refer` distribution."""
    folder.mkdir(parents=True, exist_ok=True)
    data = json.dumps(refs).encode() if name.endswith(".json") else pickle.dumps(refs, protocol)
    (folder / name).write_bytes(data)
    instances = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    (folder / "instances.json").write_text(json.dumps(instances))
    return folder


def published_refs(file: Path) -> list[Json]:
    """The refs of a split as the sample files list them: {ann_id, image_id, file_name, split, bbox, sentences}."""
    found: list[Json] = json.loads(gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes())
    return found


def write_published(folder: Path, name: str, refs: list[Json], protocol: int = 2) -> Path:
    """Listed refs as the `refer` distribution has them; sizes that the list does not give are large enough."""
    images = {
        entry["image_id"]: image(entry["image_id"], entry.get("width", 640), entry.get("height", 640)) for entry in refs
    }
    annotations = {
        entry["ann_id"]: annotation(
            entry["ann_id"], entry["image_id"], bbox=entry["bbox"], segmentation=entry.get("segmentation")
        )
        for entry in refs
    }
    listed = [
        ref(
            number,
            *entry["sentences"],
            image=entry["image_id"],
            split=entry["split"],
            ann_id=entry["ann_id"],
            file_name=entry["file_name"],
        )
        for number, entry in enumerate(refs)
    ]
    return write_refer(folder, listed, list(annotations.values()), list(images.values()), name, protocol)
