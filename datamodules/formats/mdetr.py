"""Reader of the files of MDETR (Kamath et al., ICCV 2021): referring expressions, and the phrases of GoldG.

COCO's form, but with one entry of `images` for each text: {id, file_name, width, height, caption, original_id or
original_img_id, refexp_id, data_source}. Annotations are {image_id, bbox (x y w h, pixels), segmentation,
original_id, tokens_positive: [[begin, end]], characters of the caption that mean the box}.

Where captions name several things (Flickr30k Entities and the mixed set of COCO and Visual Genome, together GoldG),
each phrase is an expression, and all boxes with the same `tokens_positive` are what it means. Where each caption names
one thing, the caption is the expression.
"""

import re
from pathlib import Path
from typing import Any

from datamodules.formats.coco import box_from_corner_and_size, image_size
from datamodules.formats.records import BadRecord, RecordError, four_numbers, identifier, items, text
from datamodules.formats.referring import Expression, ReferredObject, ReferringImage, ReferringSplit, ReferringSplits
from datamodules.formats.splits import plain_name

Json = dict[str, Any]

_DECORATION = re.compile(r"^(final|finetune)_|_(separateGT|mergedGT|mdetr)(?=_|$)")
# MDETR's own files do not say which of the partitions of RefCOCO they are.
_PARTITION = {"refcoco": "refcoco_unc", "refcoco+": "refcoco+_unc", "refcocog": "refcocog_umd"}


def is_mdetr(whole: Any) -> bool:
    """Whether the content of a file is of this form."""
    images = whole.get("images") if isinstance(whole, dict) else None
    captioned = isinstance(images, list) and any(isinstance(one, dict) and "caption" in one for one in images)
    return captioned and isinstance(whole.get("annotations"), list)


def read_mdetr(path: Path, whole: Json, splits: ReferringSplits) -> None:
    """Adds the expressions of a file, already parsed, to their splits; FormatError where its name says no split."""
    dataset, part = splits.name_and_part(path, _DECORATION.sub("", Path(path.name.removesuffix(".gz")).stem))
    dataset = _PARTITION.get(dataset, dataset)
    entries: dict[str, list[Json]] = {}
    for annotation in whole["annotations"]:
        if isinstance(annotation, dict):
            entries.setdefault(str(annotation.get("image_id")), []).append(annotation)
    phrases = any(len({_span_key(one) for one in found}) > 1 for found in entries.values())
    ids = [str(entry["refexp_id"]) for entry in whole["images"] if isinstance(entry, dict) and "refexp_id" in entry]
    # Sets that were merged from several repeat them.
    id_key = "refexp_id" if len(set(ids)) == len(whole["images"]) else "id"
    for entry in whole["images"]:
        source = entry.get("data_source") if isinstance(entry, dict) else None
        name = plain_name(f"{dataset}_{source}" if isinstance(source, str) and source != dataset else dataset)
        split = splits.get(name, part, path)
        where = f"{path}: caption {entry.get('id') if isinstance(entry, dict) else 'without id'}"
        try:
            annotations = entries.get(str(_value(entry, "id")), [])
            _add_caption(split, name, where, entry, annotations, "id" if phrases else id_key, phrases)
        except RecordError as error:
            split.bad.append(BadRecord(where, str(error)))


def _add_caption(
    split: ReferringSplit, dataset: str, where: str, entry: Json, annotations: list[Json], id_key: str, phrases: bool
) -> None:
    """Adds the expressions of one entry of `images`."""
    original = next((key for key in ("original_img_id", "original_id") if key in entry), "id")
    image_id, expression_id = identifier(entry, original), identifier(entry, id_key)
    groups: dict[str, list[Json]] = {}
    for annotation in annotations:
        groups.setdefault(_span_key(annotation) if phrases else "", []).append(annotation)
    for found in groups.values():
        split.count(image_id, 1, "+".join(str(one.get("original_id", one.get("id"))) for one in found))
    if not groups:
        split.count(image_id, 1, f"caption {expression_id}")
        raise RecordError("a caption without annotations")
    caption = text(entry, "caption")
    image = split.image(dataset, image_id, text(entry, "file_name"), image_size(entry))
    for number, found in enumerate(groups.values()):
        try:
            said = _phrase(caption, items(found[0], "tokens_positive")) if phrases else caption
            name = f"{expression_id}_{number}" if phrases else expression_id
            split.add(image, Expression(where, name, said, _targets(image, found)))
        except RecordError as error:
            split.bad.append(BadRecord(where, str(error)))


def _targets(image: ReferringImage, annotations: list[Json]) -> tuple[str, ...]:
    ids = []
    for annotation in annotations:
        box = box_from_corner_and_size(four_numbers(annotation, "bbox"))
        crowd = annotation.get("iscrowd") in (1, True)
        found = ReferredObject(box, annotation.get("segmentation") or None, crowd)
        object_id = identifier(annotation, "original_id" if "original_id" in annotation else "id")
        ids.append(image.add_object(object_id, found))
    return tuple(dict.fromkeys(ids))


def _phrase(caption: str, spans: list[Any]) -> str:
    """The parts of the caption at [begin, end] of each span, in their order, with a blank between them."""
    if not all(isinstance(span, list) and len(span) == 2 and all(type(one) is int for one in span) for span in spans):
        raise RecordError("'tokens_positive' is not a list of begin and end")
    if not spans or not all(0 <= begin < end <= len(caption) for begin, end in spans):
        raise RecordError("'tokens_positive' lies outside the caption")
    return " ".join(caption[begin:end].strip() for begin, end in sorted(spans))


def _span_key(annotation: Json) -> str:
    return str(annotation.get("tokens_positive"))


def _value(entry: Any, key: str) -> Any:
    if not isinstance(entry, dict):
        raise RecordError("not a JSON object where one is expected")
    return entry.get(key)
