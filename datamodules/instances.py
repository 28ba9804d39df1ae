"""Images with the mask, the box and the attributes of every object: COCO instances."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor
from torch.nn import functional as F

from datamodules.base import MakeQuestions, Record, ShardDataModule
from datamodules.samples import Question
from datamodules.views import View
from pixel_llm.coordinates import box_original_px_to_01
from pixel_llm.structures import Reference


@dataclass
class InstanceQuestions:
    """Asks for every object by its box; crowds, and objects that the view does not show, are left out.

    An image of which nothing is left gets one question with an empty mask, so that every batch has something to ask.
    attributes: for each kind of attribute its values; an object's labels are their indices.
    """

    attributes: list[list[str]]

    def __call__(self, record: Record, view: View, rng: np.random.Generator) -> list[Question]:
        questions = []
        for instance in json.loads(record["json"])["instances"]:
            if instance["iscrowd"]:
                continue
            mask = mask_in_view(instance["rle"], view)
            if not mask.any():
                continue
            box = np.array(box_original_px_to_01(instance["bbox"], view.original_size))
            x0, y0, x1, y1 = view.boxes(box).tolist()
            names = {instance["category"], *instance["attributes"]}
            labels = [next((i for i, v in enumerate(values) if v in names), -1) for values in self.attributes]
            reference = Reference(f"{record['__key__']}/{instance['id']}", instance["category"])
            questions.append(Question(reference, prompt_box=(x0, y0, x1, y1), mask=mask, labels=labels))
        return questions or [self._nothing(record["__key__"], view)]

    def _nothing(self, key: str, view: View) -> Question:
        mask = torch.zeros(view.pixels.shape[-2:], dtype=torch.bool)
        return Question(Reference(f"{key}/", ""), mask=mask, labels=[-1] * len(self.attributes))


def mask_in_view(rle: dict[str, Any], view: View) -> Tensor:
    """bool[h, w]: the pixels of a view that a run-length code of the whole image covers (nearest neighbour)."""
    height, width = rle["size"]
    mask = torch.from_numpy(coco_mask.decode({"size": [height, width], "counts": rle["counts"].encode()}))
    x0, y0, x1, y1 = view.window
    rows = slice(round(y0 * height), max(round(y1 * height), round(y0 * height) + 1))
    columns = slice(round(x0 * width), max(round(x1 * width), round(x0 * width) + 1))
    shown = mask[rows, columns][None, None]
    shown = F.interpolate(shown, tuple(view.pixels.shape[-2:]), mode="nearest-exact")[0, 0] > 0
    return shown.flip(-1) if view.flipped else shown


class InstancesDataModule(ShardDataModule):
    """Objects with masks.

    attributes: for each kind of attribute its values, as COCO categories or the annotations' `attributes` name them.
    Other arguments: see `ShardDataModule`; the tokenizer only goes along into the checkpoint.
    """

    name = "instances"
    kinds = ("coco-instances",)

    def __init__(self, *, attributes: list[list[str]] = [], **shared: Any) -> None:  # noqa: B006
        super().__init__(**shared)
        self.attributes = attributes

    def questions(self, training: bool) -> MakeQuestions:
        return InstanceQuestions(self.attributes)
