"""`pixel-llm score dense` and `score regions`: captions of boxes that a system found, or that it was given."""

import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.formats.records import FormatError, RecordError, check_pixels, finite, text, value
from datamodules.prepare.corpus import Corpus
from datamodules.prepare.region_corpora import read_regions as read_raw_regions
from datamodules.prepare.regions import split_corpus
from datamodules.regions import Region, read_regions
from pixel_llm.metrics.captions import score_captions
from pixel_llm.metrics.dense_captioning import dense_figures
from pixel_llm.metrics.dense_captioning_scores import DetectedRegions, Protocol, TrueRegions
from pixel_llm.metrics.referring_scores import clip_box
from pixel_llm.metrics.region_captions import MERGED_REFERENCES, SINGLE_REFERENCE
from pixel_llm.metrics.region_overlap import merged_references
from pixel_llm.score_files import Line, answered_box, check_once, named_splits, read_contents, read_lines
from pixel_llm.tables import figures_table

_NAMED = 5  # of what is in a folder

Scores = dict[str, dict[str, float]]  # split -> name -> figure


@dataclass(frozen=True)
class Image:
    """size: (height, width) of the original image, None where unknown.  regions: all true ones, perhaps none."""

    split: str
    size: tuple[int, int] | None
    regions: list[Region]

    @property
    def truth(self) -> TrueRegions:
        return TrueRegions.of((region.box, region.phrase) for region in self.regions)


class Detection(NamedTuple):
    box: Sequence[float]
    score: float
    caption: str


def score_dense(file: Path, annotations: Sequence[Path], protocol: Protocol, out: Path | None) -> None:
    """Prints the table, and on the error stream how many images have no prediction, and what is being done."""
    lines = read_lines(file)
    images = read_images(annotations, _named(file, lines))
    found = read_detections(file, lines, images)
    scores: Scores = {}
    for split, own in _by_split(images).items():
        silent = sum(key not in found for key in own)
        if silent:
            sys.stderr.write(f"{split}: {silent:,} images without a prediction, counted as without detections\n")
        truths = [image.truth for image in own.values()]
        detections = [DetectedRegions.of(found.get(key, [])) for key in own]
        counts = {"images": len(own), "regions": sum(len(truth.captions) for truth in truths)}
        counts["detections"] = sum(len(mine.captions) for mine in detections)
        sys.stderr.write(f"{split}: scoring {counts['detections']:,} captioned boxes\n")
        scores[split] = counts | dense_figures(truths, detections, protocol, by_threshold=True)
    _report(scores, str(protocol), out)


def score_regions(file: Path, annotations: Sequence[Path], merge: bool, out: Path | None) -> None:
    """Prints the table, and on the error stream how many regions have no prediction, and what is being done.

    merge: all captions of regions that overlap by an IoU of 0.7 or more are references of each.
    """
    lines = read_lines(file)
    images = read_images(annotations, _named(file, lines))
    said = read_captions(file, lines, images)
    scores: Scores = {}
    for split, own in _by_split(images).items():
        regions = _references(split, own, merge)
        silent = sum(key not in said for key in regions)
        if silent:
            sys.stderr.write(f"{split}: {silent:,} regions without a prediction, counted as nothing said\n")
        captions = [said.get(key, "") for key in regions]
        sys.stderr.write(f"{split}: scoring {len(captions):,} captions\n")
        scores[split] = {"regions": len(regions)} | score_captions(captions, list(regions.values()))
    _report(scores, MERGED_REFERENCES if merge else SINGLE_REFERENCE, out)


def read_images(paths: Sequence[Path], named: Mapping[str, str]) -> dict[str, Image]:
    """The images of the named splits by their keys, from what `read_contents` takes.

    Raises ShardError or FormatError for annotations that cannot be used, and where two images have the same key.
    """
    images: dict[str, Image] = {}
    for split, size, content in read_contents(paths, named, ("regions", "referring"), _open_raw, "regions"):
        key = f"{split}/{content['image_id']}"
        if key in images:
            raise FormatError(f"the annotations have two images {key!r}")
        images[key] = Image(split, size, read_regions(content))
    return images


def read_detections(file: Path, lines: Sequence[Line], images: Mapping[str, Image]) -> dict[str, list[Detection]]:
    """What was found in each image that has a line; boxes are clipped to it.

    Raises FormatError, naming the line, for an unknown image and for what is no detection, and for boxes that are not
    in pixels.
    """
    found = defaultdict(list)
    for line in lines:
        try:
            if line.key not in images:
                raise RecordError(f"the annotations have no image {line.key!r}")
            found[line.key].append(_detection(line.record, images[line.key].size))
        except RecordError as error:
            raise FormatError(f"{file}:{line.number}: {error}") from None
    check_pixels(file, (detection.box for own in found.values() for detection in own))
    return dict(found)


def read_captions(file: Path, lines: Sequence[Line], images: Mapping[str, Image]) -> dict[str, str]:
    """What was said of each region that has a line.

    Raises FormatError, naming the line, for an unknown region, for what is no caption and for a second one.
    """
    known = {f"{image.split}/{region.region_id}" for image in images.values() for region in image.regions}
    said = {}
    for line in lines:
        try:
            if line.key not in known:
                image = ", only an image" if line.key in images else ""
                raise RecordError(f"the annotations have no region {line.key!r}{image}")
            said[line.key] = text(line.record, "caption")
        except RecordError as error:
            raise FormatError(f"{file}:{line.number}: {error}") from None
    check_once(file, lines)
    return said


def _open_raw(paths: list[Path]) -> list[Corpus]:
    for folder in filter(Path.is_dir, paths):
        held = ", ".join(sorted(path.name for path in folder.iterdir())[:_NAMED]) or "nothing"
        raise FormatError(f"{folder}: neither shards nor folders of shards are in it, but {held}")
    return [split_corpus(split) for split in read_raw_regions(paths)]


def _named(file: Path, lines: Sequence[Line]) -> dict[str, str]:
    return named_splits(file, ((line.key, line.number) for line in lines))


def _detection(record: dict[str, Any], size: tuple[int, int] | None) -> Detection:
    x0, y0, x1, y1 = answered_box(record)
    if size and (x1 < 0 or y1 < 0 or x0 > size[1] or y0 > size[0]):
        raise RecordError(f"'box' lies outside the image of {size[1]} x {size[0]} pixels: is it of a resized one?")
    score = finite(value(record, "score"), "score")
    return Detection(clip_box((x0, y0, x1, y1), size), score, text(record, "caption"))


def _by_split(images: Mapping[str, Image]) -> dict[str, dict[str, Image]]:
    """Images in the order of their keys, as a test run has them: it decides between equal scores."""
    found: dict[str, dict[str, Image]] = {}
    for key, image in sorted(images.items()):
        found.setdefault(image.split, {})[key] = image
    return found


def _references(split: str, images: Mapping[str, Image], merge: bool) -> dict[str, list[str]]:
    """The references of every region, by its key.

    Raises FormatError where two regions have the same key.
    """
    found: dict[str, list[str]] = {}
    for image in images.values():
        truth = image.truth
        single = [[phrase] for phrase in truth.captions]
        references = merged_references(truth.boxes, truth.captions) if merge else single
        for region, own in zip(image.regions, references, strict=True):
            key = f"{split}/{region.region_id}"
            if key in found:
                raise FormatError(f"the annotations have two regions {key!r}")
            found[key] = own
    return found


def _report(scores: Scores, protocol: str, out: Path | None) -> None:
    sys.stdout.write(f"{figures_table(scores, f'protocol: {protocol}')}\n")
    if out:
        out.write_text(json.dumps({"protocol": protocol, "scores": scores}, indent=1) + "\n")
