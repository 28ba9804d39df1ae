"""COCO segmentations of any kind (polygons, plain or compressed run lengths) as compressed run-length encodings.

Everything is checked here before pycocotools sees it: its C code trusts lengths and leaves memory unwritten where
the runs do not fill the mask.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from pycocotools import mask as coco_mask

from datamodules.formats.records import RecordError, finite


class Rle(TypedDict):
    """COCO's compressed run-length encoding: size [height, width] and the runs, column by column, as ASCII."""

    size: list[int]
    counts: str


def compressed_rle(segmentation: Any, height: int, width: int) -> Rle:
    """A COCO `segmentation` of an image of height x width -> its compressed encoding.

    Raises RecordError for what `any_rle` refuses, and for an empty mask.
    """
    rle = any_rle(segmentation, height, width)
    if not coco_mask.area(rle):
        raise RecordError("empty mask")
    return rle


def any_rle(segmentation: Any, height: int, width: int) -> Rle:
    """The same where a mask may be empty.

    Raises RecordError for a polygon of fewer than three points or far outside the image, for no polygon at all, and
    for an encoding of another size or with runs that do not fill it.
    """
    if isinstance(segmentation, list):
        rle = _from_polygons(segmentation, height, width)
    elif isinstance(segmentation, dict):
        rle = _from_runs(segmentation, height, width)
    else:
        raise RecordError("'segmentation' is neither polygons nor run lengths")
    return {"size": [height, width], "counts": rle["counts"].decode()}


def union(rles: Sequence[Mapping[str, Any] | None], height: int, width: int) -> dict[str, Any] | None:
    """Compressed encodings -> that of everything they cover; an empty mask for none, None where one is unknown."""
    known = [rle for rle in rles if rle is not None]
    if len(known) < len(rles):
        return None
    empty = any_rle({"size": [height, width], "counts": [height * width]}, height, width)
    merged = coco_mask.merge([empty, *known])
    return {"size": [height, width], "counts": merged["counts"].decode()}


def _from_polygons(polygons: list[Any], height: int, width: int) -> Any:
    if not polygons:
        raise RecordError("a segmentation without polygons")
    checked = [_checked_polygon(polygon, height, width) for polygon in polygons]
    return coco_mask.merge(coco_mask.frPyObjects(checked, height, width))


def _checked_polygon(polygon: Any, height: int, width: int) -> list[float]:
    if not isinstance(polygon, list) or len(polygon) % 2:
        raise RecordError("a polygon is not a list of x y pairs")
    if len(polygon) < 6:
        raise RecordError("a polygon of fewer than three points")
    numbers = [finite(number, "segmentation") for number in polygon]
    # Drawing an outline costs time and memory by its length, so a point a light-year away must not get through.
    if not all(-width <= x <= 2 * width for x in numbers[::2]):
        raise RecordError("a polygon far outside the image")
    if not all(-height <= y <= 2 * height for y in numbers[1::2]):
        raise RecordError("a polygon far outside the image")
    return numbers


def _from_runs(segmentation: dict[str, Any], height: int, width: int) -> Any:
    if segmentation.get("size") != [height, width]:
        raise RecordError("run lengths of another size than the image")
    counts = segmentation.get("counts")
    runs = _decode_counts(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(type(run) is int and run >= 0 for run in runs):
        raise RecordError("run lengths that are not whole numbers")
    if sum(runs) != height * width:
        raise RecordError("run lengths that do not fill the image")
    return coco_mask.frPyObjects({"size": [height, width], "counts": runs}, height, width)


def _decode_counts(counts: str) -> list[int]:
    """COCO's string of run lengths: five bits a character from '0', the sixth says that more follow, the sign
    is extended, and from the fourth run on each is stored as the difference to the run two before."""
    runs: list[int] = []
    number = shift = 0
    for character in counts:
        code = ord(character) - 48
        if not 0 <= code < 64 or shift > 60:
            raise RecordError("run lengths in a broken string")
        number |= (code & 31) << shift
        shift += 5
        if not code & 32:
            number -= (code & 16) << (shift - 4)
            runs.append(number + (runs[-2] if len(runs) > 2 else 0))
            number = shift = 0
    if shift:
        raise RecordError("run lengths in a broken string")
    return runs
