"""Two checks on referring data before it becomes shards: is it what was published, and does it train on test images.

The photos of RefCOCO's validation and test splits lie inside COCO's training split, so that a training set made from
COCO by someone else, such as the mixed set of MDETR, holds them unless its makers took care.
"""

import hashlib
import json
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from datamodules.formats.records import FormatError, RecordError, items, read_json, value
from datamodules.formats.referring import VISUAL_GENOME, ReferringImage, ReferringSplit, part_of, picture_name
from datamodules.prepare.referring import TRAINING, is_training
from datamodules.prepare.referring_corpora import read_referring
from datamodules.records import read_field
from datamodules.shard_index import ShardError, open_shards, shard_folders

_NAMED = 3  # leaking images that an error names


@dataclass(frozen=True)
class Published:
    """How much a split holds, None where no publication says it."""

    refs: int
    sentences: int | None = None
    images: int | None = None


# Yu et al., ECCV 2016; Mao et al., CVPR 2016; Nagaraja et al., ECCV 2016; the listing of the refer distribution
PUBLISHED = {
    "refcoco_unc_train": Published(42_404, 120_624, 16_994),
    "refcoco_unc_val": Published(3_811, 10_834, 1_500),
    "refcoco_unc_testA": Published(1_975, 5_657, 750),
    "refcoco_unc_testB": Published(1_810, 5_095, 750),
    "refcocoplus_unc_train": Published(42_278, 120_191, 16_992),
    "refcocoplus_unc_val": Published(3_805, 10_758, 1_500),
    "refcocoplus_unc_testA": Published(1_975, 5_726, 750),
    "refcocoplus_unc_testB": Published(1_798, 4_889, 750),
    "refcocog_umd_train": Published(42_226, 80_512, 21_899),
    "refcocog_umd_val": Published(2_573, 4_896, 1_300),
    "refcocog_umd_test": Published(5_023, 9_602, 2_600),
    "refcocog_google_train": Published(44_822, 85_474),
    "refcocog_google_val": Published(5_000, 9_536),
}


class LeakingImages(StrEnum):
    """What to do with images of a training split that an evaluation split holds too."""

    REFUSE = "refuse"
    DROP = "drop"
    KEEP = "keep"


def check_published(split: ReferringSplit) -> list[str]:
    """A line saying that a split of a published name holds what was published, or what differs; none for others."""
    published = PUBLISHED.get(split.name)
    if published is None:
        return []
    found = {"refs": len(split.refs), "sentences": split.sentences, "images": len(split.image_ids)}
    known = {name: count for name, count in vars(published).items() if count is not None}
    different = [f"{found[name]:,} {name}, not {count:,}" for name, count in known.items() if found[name] != count]
    if different:
        return [f"not the published {split.name}: its annotations hold {'; '.join(different)}"]
    return [f"as published: {', '.join(f'{count:,} {name}' for name, count in known.items())}"]


def evaluation_pictures(splits: list[ReferringSplit], paths: list[Path]) -> dict[str, str]:
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
        if not is_training(split):
            pictures.update((_photo(image), split.name) for image in split.images.values())
    return pictures


def _add_shards(folder: Path, pictures: dict[str, str]) -> None:
    for data in read_field(open_shards(folder), "json"):
        content = json.loads(data)
        dataset = content["dataset_id"]
        if not part_of(dataset).startswith(TRAINING):
            pictures[content.get("picture") or picture_name(dataset, content["image_id"], "")] = dataset


def check_leaks(split: ReferringSplit, pictures: dict[str, str], action: LeakingImages) -> list[str]:
    """Looks for images of evaluation splits in a training split, and drops them from it or keeps them as asked.

    Returns lines that say what was done. Raises ShardError naming the first few where nothing was asked for.
    """
    if not is_training(split):
        return []
    leaking = [image for image in split.images.values() if _photo(image) in pictures]
    if not leaking:
        return [f"{len(split.images):,} images, none of an evaluation split"] if pictures else []
    owners = ", ".join(sorted({pictures[_photo(image)] for image in leaking}))
    found = f"{len(leaking):,} of {len(split.images):,} images are of evaluation splits ({owners})"
    if action is LeakingImages.REFUSE:
        some = ", ".join(_photo(image) for image in leaking[:_NAMED])
        advice = "--leaking-images drop leaves them out, keep keeps them"
        raise ShardError(f"{split.name}: {found}, such as {some}: {advice}")
    if action is LeakingImages.KEEP:
        return [f"{found}: kept as asked"]
    for image in leaking:
        del split.images[image.picture]
    ids = "\n".join(sorted(image.image_id for image in leaking))
    split.left_out = hashlib.sha256(ids.encode()).hexdigest()
    return [f"{found}: left out with {sum(len(image.expressions) for image in leaking):,} expressions"]


def _photo(image: ReferringImage) -> str:
    return image.coco_picture or image.picture


def read_coco_ids(path: Path) -> dict[str, str]:
    """`vg/2343751` -> `coco/57870`, from Visual Genome's image_data.json: half of its photos are COCO's."""
    try:
        entries = items({"list": read_json(path)}, "list")
        found = {f"{VISUAL_GENOME}/{value(entry, 'image_id')}": entry.get("coco_id") for entry in entries}
    except RecordError as error:
        raise FormatError(f"{path}: {error}: not Visual Genome's image data") from None
    return {name: f"coco/{coco_id}" for name, coco_id in found.items() if coco_id is not None}


def name_coco_pictures(split: ReferringSplit, coco_ids: dict[str, str]) -> list[str]:
    """Gives the photos of Visual Genome that are COCO's their names there; a line where none is known."""
    photos = [image for image in split.images.values() if image.picture.startswith(f"{VISUAL_GENOME}/")]
    for image in photos:
        image.coco_picture = coco_ids.get(image.picture)
    if photos and not coco_ids and is_training(split):
        return [f"{len(photos):,} images of Visual Genome may be COCO's: --vg-image-data tells which"]
    return []
