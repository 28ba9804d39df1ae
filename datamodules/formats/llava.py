"""Reader of conversations about images as LLaVA publishes them (Liu et al., NeurIPS 2023), and ShareGPT4V after it.

The file is one JSON list. An entry holds `id`, `image` (the picture's path, absent in conversations without one) and
`conversations`, a list of {from, value} in which `human` asks and `gpt` answers in turn. `<image>` in a question marks
where the picture goes. An image, and an id, may have several entries.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.formats.image_paths import check_inside
from datamodules.formats.records import BadRecord, RecordError, items, read_json_list, text

_HUMAN = "human"
_IMAGE_MARKER = re.compile(r"<image>\n|\n<image>|<image>")


@dataclass(frozen=True)
class Turn:
    """A question, without the marker of the image, and its answer, which may be empty."""

    question: str
    answer: str


@dataclass(frozen=True)
class Conversation:
    """where: its place, for a report.  image: path of the picture below the image folder.  turns: at least one."""

    where: str
    image: str
    turns: tuple[Turn, ...]


def read_llava(path: Path) -> Iterator[Conversation | BadRecord]:
    """The conversations of a file, in its order; entries are numbered from 0.

    Raises FormatError where the file is no list.
    """
    for number, entry in enumerate(read_json_list(path)):
        where = f"{path}: entry {number}"
        try:
            yield Conversation(where, _image(entry), _turns(entry))
        except RecordError as error:
            yield BadRecord(where, str(error))


def _image(entry: Any) -> str:
    if not isinstance(entry, dict):
        raise RecordError("not a JSON object where one is expected")
    if not entry.get("image"):
        raise RecordError("a conversation without an image")
    return check_inside(text(entry, "image"), "image")


def _turns(entry: dict[str, Any]) -> tuple[Turn, ...]:
    said = [(text(one, "from"), text(one, "value")) for one in items(entry, "conversations")]
    roles = [role == _HUMAN for role, _ in said]
    if not roles or roles != [True, False] * (len(roles) // 2):
        raise RecordError("questions and answers that do not alternate")
    values = [value for _, value in said]
    asked = [_IMAGE_MARKER.sub("", question) for question in values[::2]]
    return tuple(Turn(question, answer) for question, answer in zip(asked, values[1::2], strict=True))
