"""Does a training split hold photos of a split to evaluate on?

The photos of RefCOCO's validation and test splits lie inside COCO's training split, so that a training set made from
COCO by someone else, such as the mixed set of MDETR, holds them unless its makers took care.
"""

import hashlib
import json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

from datamodules.formats.splits import AnnotatedSplit, is_training, part_of, picture_name
from datamodules.prepare.referring_corpora import read_referring
from datamodules.records import read_field
from datamodules.shard_index import ShardError, open_shards, shard_folders

_NAMED = 3  # leaking images that an error names


class LeakingImages(StrEnum):
    """What to do with images of a training split that an evaluation split holds too."""

    REFUSE = "refuse"
    DROP = "drop"
    KEEP = "keep"


def evaluation_pictures(splits: Sequence[AnnotatedSplit], paths: list[Path]) -> dict[str, str]:
    """Photo -> the split that evaluates on it, of all splits that are not for training.

    splits: those of the conversion itself.  paths: annotations in any form, folders of shards, and folders of those.
    Raises FormatError and ShardError for what is neither.
    """
    pictures: dict[str, str] = {}
    others: list[Path] = []
    for path in paths:
        shards = shard_folders(path)
        others += [] if shards else [path]
        for folder in shards:
            _add_shards(folder, pictures)
    for split in [*splits, *(read_referring(others) if others else [])]:
        if not split.is_training:
            pictures.update((image.photo, split.name) for image in split.images.values())
    return pictures


def _add_shards(folder: Path, pictures: dict[str, str]) -> None:
    for data in read_field(open_shards(folder), "json"):
        content = json.loads(data)
        dataset = content["dataset_id"]
        if not is_training(part_of(dataset)):
            pictures[content.get("picture") or picture_name(dataset, content["image_id"], "")] = dataset


def check_leaks(split: AnnotatedSplit, pictures: dict[str, str], action: LeakingImages) -> list[str]:
    """Looks for images of evaluation splits in a training split, and drops them from it or keeps them as asked.

    Returns lines that say what was done. Raises ShardError naming the first few where nothing was asked for.
    """
    if not split.is_training:
        return []
    leaking = [image for image in split.images.values() if image.photo in pictures]
    if not leaking:
        return [f"{len(split.images):,} images, none of an evaluation split"] if pictures else []
    owners = ", ".join(sorted({pictures[image.photo] for image in leaking}))
    found = f"{len(leaking):,} of {len(split.images):,} images are of evaluation splits ({owners})"
    if action is LeakingImages.REFUSE:
        some = ", ".join(image.photo for image in leaking[:_NAMED])
        advice = "--leaking-images drop leaves them out, keep keeps them"
        raise ShardError(f"{split.name}: {found}, such as {some}: {advice}")
    if action is LeakingImages.KEEP:
        return [f"{found}: kept as asked"]
    for image in leaking:
        del split.images[image.picture]
    ids = "\n".join(sorted(image.image_id for image in leaking))
    split.left_out = hashlib.sha256(ids.encode()).hexdigest()
    return [f"{found}: left out"]
