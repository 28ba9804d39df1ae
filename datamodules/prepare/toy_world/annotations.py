"""A toy scene in the words of the official annotation formats: Localized Narratives, COCO instances, COCO captions."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from datamodules.prepare.toy_world.hand import trace
from datamodules.prepare.toy_world.narrate import narrate, noun_phrase
from datamodules.prepare.toy_world.scene import SHAPES, Scene, Shape

CATEGORIES = [{"id": i, "name": name, "supercategory": "shape"} for i, name in enumerate(SHAPES, start=1)]
_CORNERS = {
    "square": ((-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)),
    "triangle": ((0, -0.95), (0.972, 0.8), (-0.972, 0.8)),
}


def localized_narrative(scene: Scene, image_id: int, split: str) -> dict[str, Any]:
    """One line of the jsonl, with the optional keys `image_file` and `mentions` (which words name which object)."""
    narration = narrate(scene)
    return {
        "dataset_id": f"toy_{split}",
        "image_id": str(image_id),
        "image_file": image_file(image_id, split),
        "annotator_id": scene.seed[0],
        "caption": narration.caption,
        "timed_caption": [{"utterance": w.text, "start_time": w.start, "end_time": w.stop} for w in narration.words],
        "traces": [[{"x": x, "y": y, "t": t} for x, y, t in stroke] for stroke in trace(scene, narration)],
        "mentions": [
            {"begin": m.begin, "end": m.end, "bbox": _box_01(scene, scene.objects[m.target])}
            for m in narration.mentions
        ],
    }


def image_file(image_id: int, split: str) -> str:
    """Path of an image inside the image folder, named as COCO names its files."""
    return f"{split}/{image_id:012d}.jpg"


def image_record(scene: Scene, image_id: int, split: str) -> dict[str, Any]:
    return {
        "id": image_id,
        "file_name": image_file(image_id, split),
        "width": scene.width,
        "height": scene.height,
    }


def instances(scene: Scene, masks: NDArray[np.bool_], image_id: int) -> list[dict[str, Any]]:
    """COCO annotations; a whole convex shape has a polygon, others run-length codes of their visible mask.

    `attributes` (COCO leaves room for further keys) names size, colour, texture and shape.
    """
    out = []
    for i, (shape, mask) in enumerate(zip(scene.objects, masks, strict=True)):
        code = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
        out.append(
            {
                "id": image_id * 10 + i,
                "image_id": image_id,
                "category_id": SHAPES.index(shape.shape) + 1,
                "attributes": list(shape.attributes),
                "bbox": [float(v) for v in coco_mask.toBbox(code)],
                "area": float(coco_mask.area(code)),
                "segmentation": _polygon(shape)
                if shape.shape in _CORNERS and _is_whole(scene, i)
                else {"size": list(code["size"]), "counts": code["counts"].decode()},
                "iscrowd": 0,
            }
        )
    return out


def captions(scene: Scene, image_id: int) -> list[dict[str, Any]]:
    """Two short COCO captions: what is there, and how much."""
    rng = np.random.default_rng((*scene.seed, 4))
    named = [noun_phrase(scene.objects[i]) for i in rng.permutation(len(scene.objects))[:2]]
    number = ("three", "four", "five", "six")[len(scene.objects) - 3]
    texts = [
        f"A {' and a '.join(named)} on a {scene.tint} background.",
        f"I can count {number} shapes, and see a {named[0]}.",
    ]
    return [{"id": image_id * 10 + i, "image_id": image_id, "caption": text} for i, text in enumerate(texts)]


def _is_whole(scene: Scene, index: int) -> bool:
    """Nothing painted later comes near the object."""
    a = scene.objects[index]
    return all(max(abs(a.x - b.x), abs(a.y - b.y)) > 1.1 * (a.radius + b.radius) for b in scene.objects[index + 1 :])


def _polygon(shape: Shape) -> list[list[float]]:
    c, s = float(np.cos(shape.angle)), float(np.sin(shape.angle))
    corners = [(shape.radius * u, shape.radius * v) for u, v in _CORNERS[shape.shape]]
    return [[round(w, 2) for u, v in corners for w in (shape.x + c * u - s * v, shape.y + s * u + c * v)]]


def _box_01(scene: Scene, shape: Shape) -> list[float]:
    """x0 y0 x1 y1 of the square that holds the shape, clipped to the image and normalised by its size."""
    x0, x1 = (np.clip((shape.x + d * shape.radius) / scene.width, 0, 1) for d in (-1, 1))
    y0, y1 = (np.clip((shape.y + d * shape.radius) / scene.height, 0, 1) for d in (-1, 1))
    return [round(float(v), 5) for v in (x0, y0, x1, y1)]
