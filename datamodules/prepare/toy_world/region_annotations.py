"""The objects of a toy scene in Visual Genome's words: region descriptions, and the data of the image.

As there, ids are unique over all splits, and some objects are described twice, as if by another annotator with
another box around the same thing.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from datamodules.prepare.toy_world.annotations import image_file
from datamodules.prepare.toy_world.narrate import noun_phrase
from datamodules.prepare.toy_world.refer import SHOWN
from datamodules.prepare.toy_world.refer_annotations import shared_id
from datamodules.prepare.toy_world.scene import Scene

Json = dict[str, Any]
IntBox = tuple[int, int, int, int]

_TWICE = 0.3  # share of objects that are described twice
_HAND = 0.06  # each edge of the second box is off by at most this share of the object's width or height


def region_descriptions(
    scene: Scene, instances: list[Json], visible: Sequence[float], image_id: int, split: str
) -> Json:
    """An entry of region_descriptions.json: objects of which less than `SHOWN` is visible are not described.

    A phrase says size, colour, texture and shape; medium size and plain texture go without saying. The first box is
    the tight one of the visible pixels, as the instances have it.
    """
    rng = np.random.default_rng((*scene.seed, 7))
    found: list[tuple[str, IntBox]] = []
    again: list[tuple[str, IntBox]] = []
    for shape, instance, share in zip(scene.objects, instances, visible, strict=True):
        if share >= SHOWN:
            x, y, width, height = map(round, instance["bbox"])
            phrase = noun_phrase(shape)
            found.append((phrase, (x, y, x + width, y + height)))
            if rng.random() < _TWICE:
                article = rng.choice(["the", "an" if phrase[0] in "aeiou" else "a"])
                again.append((f"{article} {phrase}", _drawn_again(found[-1][1], scene, rng)))
    shared = shared_id(image_id, split)
    return {"id": shared, "regions": [_region(shared, number, *one) for number, one in enumerate([*found, *again])]}


def image_data(scene: Scene, image_id: int, split: str) -> Json:
    """An entry of image_data.json; the end of the address says where the picture lies, as in Visual Genome."""
    return {
        "image_id": shared_id(image_id, split),
        "url": f"images/{image_file(image_id, split)}",
        "width": scene.width,
        "height": scene.height,
        "coco_id": None,
        "flickr_id": None,
    }


def _drawn_again(box: IntBox, scene: Scene, rng: np.random.Generator) -> IntBox:
    x0, y0, x1, y1 = box
    off = rng.uniform(-_HAND, _HAND, 4) * np.array([x1 - x0, y1 - y0] * 2)
    moved = np.clip(np.round(box + off), 0, [scene.width, scene.height] * 2)
    x0, y0, x1, y1 = map(int, moved)
    return x0, y0, x1, y1


def _region(image_id: int, number: int, phrase: str, box: IntBox) -> Json:
    x0, y0, x1, y1 = box
    place = {"x": x0, "y": y0, "width": x1 - x0, "height": y1 - y0}
    return {"region_id": image_id * 100 + number, "image_id": image_id, **place, "phrase": phrase}
