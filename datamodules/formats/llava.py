"""Reader of conversations about images as LLaVA publishes them (Liu et al., NeurIPS 2023), and ShareGPT4V after it.

The file is one JSON list. An entry holds `id`, `image` (the picture's path, absent in conversations without one) and
`conversations`, a list of {from, value} in which `human` asks and `gpt` answers in turn. `<image>` in a question marks
where the picture goes. An image, and an id, may have several entries.

Osprey (Yuan et al., CVPR 2024) publishes questions about regions in the same form: `file_name` for `image`, `height`,
`width`, and `annotation`, a list of regions with a COCO `segmentation` each, which the texts name <region1>, <region2>.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.formats.image_paths import check_inside
from datamodules.formats.records import BadRecord, RecordError, items, read_json_list, text, value, whole_number

_HUMAN = "human"
REGION = re.compile(r"<region([0-9]+)>")
_IMAGE_MARKER = re.compile(r"<image>\n|\n<image>|<image>")


@dataclass(frozen=True)
class Turn:
    """A question, without the marker of the image, and its answer, which may be empty."""

    question: str
    answer: str


@dataclass(frozen=True)
class Conversation:
    """where: its place, for a report.  turns: at least one.
    image: path of the picture below the image folder; None of a conversation about no picture.

    regions: COCO segmentations of what the turns name <region1>, <region2> and so on, as they stand in the file.
    size: (width, height) of the image that they are for; None where there are none.
    """

    where: str
    image: str | None
    turns: tuple[Turn, ...]
    regions: tuple[Any, ...] = ()
    size: tuple[int, int] | None = None


def read_llava(path: Path) -> Iterator[Conversation | BadRecord]:
    """The conversations of a file, in its order; entries are numbered from 0.

    Raises FormatError where the file is no list.
    """
    for number, entry in enumerate(read_json_list(path)):
        where = f"{path}: entry {number}"
        try:
            yield Conversation(where, _image(entry), _turns(entry), *_regions(entry))
        except RecordError as error:
            yield BadRecord(where, str(error))


def _image(entry: Any) -> str | None:
    if not isinstance(entry, dict):
        raise RecordError("not a JSON object where one is expected")
    key = "image" if entry.get("image") or not entry.get("file_name") else "file_name"
    if entry.get(key):
        return check_inside(text(entry, key), key)
    if "annotation" in entry or any("<image>" in text(one, "value") for one in items(entry, "conversations")):
        raise RecordError("an image is spoken of and none is named")
    return None


def _regions(entry: dict[str, Any]) -> tuple[tuple[Any, ...], tuple[int, int] | None]:
    if "annotation" not in entry:
        return (), None
    regions = tuple(value(region, "segmentation") for region in items(entry, "annotation"))
    said = (text(one, "value") for one in items(entry, "conversations"))
    if any(not 1 <= int(number) <= len(regions) for one in said for number in REGION.findall(one)):
        raise RecordError("a region is named that is not annotated")
    return regions, (whole_number(entry, "width"), whole_number(entry, "height"))


def _turns(entry: dict[str, Any]) -> tuple[Turn, ...]:
    said = [(text(one, "from"), text(one, "value")) for one in items(entry, "conversations")]
    roles = [role == _HUMAN for role, _ in said]
    if not roles or roles != [True, False] * (len(roles) // 2):
        raise RecordError("questions and answers that do not alternate")
    values = [value for _, value in said]
    asked = [_IMAGE_MARKER.sub("", question) for question in values[::2]]
    return tuple(Turn(question, answer) for question, answer in zip(asked, values[1::2], strict=True))
