"""What every form of region data says, in one form: a split, its images, and their regions with phrases.

The readers of the forms (`visual_genome`, `regions_coco`, `regions_jsonl`) put what they find into `RegionSplits`.
An image may have no region. Boxes are x0 y0 x1 y1 in pixels, not fitted to the image here.
"""

from dataclasses import dataclass, field
from pathlib import Path

from datamodules.formats.splits import AnnotatedImage, AnnotatedSplit, Box, Names, Size, Splits


@dataclass(slots=True)
class Region:
    """file: that it was read from.  phrase: as it stands there."""

    file: Path
    region_id: str
    box: Box
    phrase: str

    @property
    def where(self) -> str:
        """Its place, for a report."""
        return f"{self.file}: region {self.region_id}"


@dataclass
class RegionImage(AnnotatedImage):
    regions: list[Region] = field(default_factory=list)


@dataclass
class RegionSplit(AnnotatedSplit[RegionImage]):
    """One split of a data set.  text: what was done to its phrases, "" for nothing."""

    text: str = ""
    _region_names: Names = field(default_factory=Names)

    def image(self, dataset: str, image_id: str, file_name: str = "", size: Size | None = None) -> RegionImage:
        """The image of this data set, a new one where there is none yet; RecordError for a path out of its folder."""
        return self.find_or_add(RegionImage, dataset, image_id, file_name, size)

    def add(self, image: RegionImage, region: Region) -> None:
        """Adds a region; an id that occurs again gets a number behind it."""
        region.region_id = self._region_names.claim(region.region_id)
        image.regions.append(region)


class RegionSplits(Splits[RegionSplit]):
    """The splits that some files hold, see `Splits`."""

    def __init__(self, only_name: str | None = None) -> None:
        super().__init__(RegionSplit, only_name)
