"""Reader of the `refer` distribution: RefCOCO, RefCOCO+ (Yu et al., ECCV 2016), RefCOCOg (Mao et al., CVPR 2016),
and gRefCOCO (Liu et al., CVPR 2023), which has the same form.

A folder holds `instances.json`, COCO instances, and one file of refs for each partition: `refs(unc).p`, a pickle, or
`grefs(unc).json`. A ref is {ref_id, ann_id, image_id, file_name, split, sentences: [{sent_id, sent, raw}]}; in
gRefCOCO `ann_id` is a list of all that is meant, [-1] for nothing. A sentence may have a string `kind`.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.formats.coco import CocoFile, box_from_corner_and_size, load_coco
from datamodules.formats.plain_pickle import read_plain_pickle
from datamodules.formats.records import (
    BadRecord,
    FormatError,
    RecordError,
    four_numbers,
    identifier,
    read_json,
    text,
)
from datamodules.formats.referring import Expression, ReferredObject, ReferringImage, ReferringSplits
from datamodules.formats.splits import plain_name

INSTANCES = "instances.json"

_REFS = re.compile(r"g?refs\((?P<partition>[^()]+)\)\.(p|pkl|json)")
_NOTHING = "-1"


@dataclass(frozen=True)
class _Objects:
    """The annotations of an instance file by their ids.  crowds: whether a crowd may be what a ref means."""

    coco: CocoFile
    entries: dict[str, dict[str, Any]]
    crowds: bool


def refs_files(folder: Path) -> list[Path]:
    """The files of refs in a folder, one for each partition, sorted; none where it is no such folder."""
    return sorted(path for path in folder.iterdir() if is_refs_file(path)) if folder.is_dir() else []


def is_refs_file(path: Path) -> bool:
    """Whether a file is named as the distribution names its files of refs."""
    return bool(_REFS.fullmatch(path.name))


def read_refs(files: list[Path], splits: ReferringSplits) -> None:
    """Reads files of refs that lie in one folder, with the instances there.

    The data set's name is the folder's. Raises FormatError for files of another form.
    """
    instances = files[0].parent / INSTANCES
    if not instances.is_file():
        raise FormatError(f"{files[0]}: no {INSTANCES} beside it")
    coco = load_coco(instances)
    entries = {str(entry.get("id")): entry for found in coco.annotations.values() for entry in found}
    name = plain_name(files[0].parent.resolve().name)
    for path in files:
        objects = _Objects(coco, entries, crowds=path.name.startswith("g"))
        match = _REFS.fullmatch(path.name)
        assert match
        for number, ref in enumerate(_load(path)):
            _add_ref(path, f"{name}_{match['partition']}", number, ref, objects, splits)


def _load(path: Path) -> list[Any]:
    refs = read_json(path) if path.suffix == ".json" else read_plain_pickle(path)
    if not isinstance(refs, list):
        raise FormatError(f"{path}: not a list of refs")
    return refs


def _add_ref(path: Path, dataset: str, number: int, ref: Any, objects: _Objects, splits: ReferringSplits) -> None:
    """Adds a ref to its split; where it cannot be used, each of its sentences is noted as bad."""
    ref_id = ref.get("ref_id", f"number {number}") if isinstance(ref, dict) else f"number {number}"
    where = f"{path}: ref {ref_id}"
    try:
        part = text(ref, "split")
    except RecordError as error:
        splits.get(dataset, "unknown", path, objects.coco.path).bad.append(BadRecord(where, str(error)))
        return
    split = splits.get(dataset, part, path, objects.coco.path)
    sentences = ref.get("sentences")
    sentences = sentences if isinstance(sentences, list) else []
    split.count(str(ref.get("image_id")), len(sentences), f"{path.name} {number}")
    try:
        if not sentences:
            raise RecordError("a ref without sentences")
        entry = objects.coco.images.get(identifier(ref, "image_id"))
        if entry is None:
            raise RecordError(f"its image is not in {INSTANCES!r}")
        image = split.image(dataset, entry.image_id, entry.file_name, (entry.width, entry.height))
        targets = _targets(ref, entry.image_id, image, objects)
    except RecordError as error:
        split.bad += [BadRecord(where, str(error))] * max(1, len(sentences))
        return
    for i, sentence in enumerate(sentences):
        try:
            split.add(image, _expression(where, f"{ref_id}_{i}", sentence, targets))
        except RecordError as error:
            split.bad.append(BadRecord(f"{where} sentence {i}", str(error)))


def _targets(ref: dict[str, Any], image_id: str, image: ReferringImage, objects: _Objects) -> tuple[str, ...]:
    """The ids of the objects that are meant, which are added to the image."""
    if isinstance(ref.get("ann_id"), list):
        ids = [identifier({"ann_id": one}, "ann_id") for one in ref["ann_id"]]
        wanted = [one for one in dict.fromkeys(ids) if one != _NOTHING]
    else:
        wanted = [identifier(ref, "ann_id")]
    targets = []
    for object_id in wanted:
        entry = objects.entries.get(object_id)
        if entry is None:
            raise RecordError(f"its annotation is not in {INSTANCES!r}")
        if identifier(entry, "image_id") != image_id:
            raise RecordError("its annotation is of another image")
        targets.append(image.add_object(object_id, _object(entry, objects.crowds)))
    return tuple(targets)


def _object(entry: dict[str, Any], crowds: bool) -> ReferredObject:
    box = box_from_corner_and_size(four_numbers(entry, "bbox"))
    return ReferredObject(box, entry.get("segmentation"), entry.get("iscrowd") in (1, True) and not crowds)


def _expression(where: str, spare_id: str, sentence: Any, targets: tuple[str, ...]) -> Expression:
    said = text(sentence, "sent" if isinstance(sentence, dict) and "sent" in sentence else "raw")
    expression_id = identifier(sentence, "sent_id") if "sent_id" in sentence else spare_id
    kind = text(sentence, "kind") if "kind" in sentence else ""
    return Expression(where, expression_id, said, targets, kind)
