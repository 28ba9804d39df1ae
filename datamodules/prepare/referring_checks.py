"""Checks on referring data before it becomes shards: is it what was published, and which of its photos are COCO's."""

from dataclasses import dataclass

from datamodules.formats.referring import ReferringSplit
from datamodules.formats.splits import VISUAL_GENOME
from datamodules.formats.visual_genome import UNKNOWN, ImageData


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


def name_coco_pictures(split: ReferringSplit, known: dict[str, ImageData]) -> list[str]:
    """Gives the photos of Visual Genome that are COCO's their names there; a line where nothing is known of them.

    known: as `read_image_data` gives it.
    """
    photos = [image for image in split.images.values() if image.picture.startswith(f"{VISUAL_GENOME}/")]
    for image in photos:
        image.coco_picture = known.get(image.picture.partition("/")[2], UNKNOWN).coco_picture
    if photos and not known and split.is_training:
        return [f"{len(photos):,} images of Visual Genome may be COCO's: --vg-image-data tells which"]
    return []
