"""Expressions of a toy scene in the formats of referring data: RefCOCO's refs, gRefCOCO's refs, and MDETR's json.

RefCOCO has one file for all splits, so ids are unique over them: `shared_id` of an image, followed by a digit for the
object in those of annotations and refs, followed by a digit for the expression in those of sentences.
"""

from typing import Any

from datamodules.prepare.toy_world.refer import Expression
from datamodules.prepare.toy_world.refer_several import GroupExpression
from datamodules.prepare.toy_world.scene import SPLITS

Json = dict[str, Any]

_IMAGES_PER_SPLIT = 10_000_000  # more than any split has


def shared_id(image_id: int, split: str) -> int:
    """The number of an image in files that hold all splits."""
    return SPLITS.index(split) * _IMAGES_PER_SPLIT + image_id


def shared_image(image: Json, split: str) -> Json:
    return {**image, "id": shared_id(image["id"], split)}


def shared_instance(instance: Json, split: str) -> Json:
    image_id = shared_id(instance["image_id"], split)
    return {**instance, "id": image_id * 10 + instance["id"] % 10, "image_id": image_id}


def refs(image: Json, instances: list[Json], expressions: list[list[Expression]], split: str) -> list[Json]:
    """RefCOCO's refs of one image: one for each object that is referred to. Sentences have the further key `kind`."""
    out = []
    for instance, said in zip((shared_instance(one, split) for one in instances), expressions, strict=True):
        sentences = [_sentence(instance["id"] * 10 + i, one.text, one.kind) for i, one in enumerate(said)]
        if sentences:
            out.append(
                {
                    "ref_id": instance["id"],
                    "ann_id": instance["id"],
                    "image_id": instance["image_id"],
                    "file_name": image["file_name"],
                    "category_id": instance["category_id"],
                    "split": split,
                    "sent_ids": [sentence["sent_id"] for sentence in sentences],
                    "sentences": sentences,
                }
            )
    return out


def grefs(image: Json, instances: list[Json], expressions: list[GroupExpression], split: str) -> list[Json]:
    """gRefCOCO's refs of one image: one for each expression, whose targets are a list, [-1] for none."""
    shared, image_id = [shared_instance(one, split) for one in instances], shared_id(image["id"], split)
    out = []
    for number, expression in enumerate(expressions, start=image_id * 10):
        targets = [shared[i] for i in expression.targets]
        out.append(
            {
                "ref_id": number,
                "ann_id": [target["id"] for target in targets] or [-1],
                "image_id": image_id,
                "file_name": image["file_name"],
                "category_id": [target["category_id"] for target in targets] or [-1],
                "split": split,
                "no_target": not targets,
                "sent_ids": [number],
                "sentences": [_sentence(number, expression.text, expression.kind)],
            }
        )
    return out


def mdetr(
    image: Json, instances: list[Json], expressions: list[list[Expression]], split: str
) -> tuple[list[Json], list[Json]]:
    """MDETR's `images`, one for each expression, and their `annotations`, with the ids of `refs`."""
    images, annotations = [], []
    for instance, said in zip((shared_instance(one, split) for one in instances), expressions, strict=True):
        for i, expression in enumerate(said):
            number = instance["id"] * 10 + i
            images.append(
                {
                    **image,
                    "id": number,
                    "original_id": instance["image_id"],
                    "caption": expression.text,
                    "raw": expression.text,
                    "refexp_id": number,
                    "dataset_name": "toy",
                }
            )
            annotations.append(
                {
                    **{key: instance[key] for key in ("bbox", "area", "iscrowd", "category_id", "segmentation")},
                    "id": number,
                    "image_id": number,
                    "original_id": instance["id"],
                    "tokens_positive": [list(expression.head)],
                }
            )
    return images, annotations


def _sentence(number: int, text: str, kind: str) -> Json:
    return {"sent_id": number, "sent": text, "raw": text, "tokens": text.split(), "kind": kind}
