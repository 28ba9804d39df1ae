"""The reader of LLaVA's conversations, and every way an entry can be bad."""

import json
from pathlib import Path
from typing import Any

import pytest

from datamodules.formats.llava import Conversation, Turn, read_llava
from datamodules.formats.records import BadRecord, FormatError

# The first entry of LLaVA-Instruct-150K, its answers shortened, as the project's page shows it.
BUS = {
    "id": "000000033471",
    "image": "000000033471.jpg",
    "conversations": [
        {"from": "human", "value": "<image>\nWhat are the colors of the bus in the image?"},
        {"from": "gpt", "value": "The bus in the image is white and red."},
        {"from": "human", "value": "What feature can be seen on the back of the bus?"},
        {"from": "gpt", "value": "The back of the bus features an advertisement."},
    ],
}


def write(path: Path, entries: Any) -> Path:
    path.write_text(json.dumps(entries))
    return path


def asking(question: str) -> dict[str, Any]:
    return BUS | {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": "It is."}]}


def test_turns_of_a_conversation(tmp_path: Path) -> None:
    path = write(tmp_path / "llava.json", [BUS])
    assert list(read_llava(path)) == [
        Conversation(
            f"{path}: entry 0",
            "000000033471.jpg",
            (
                Turn("What are the colors of the bus in the image?", "The bus in the image is white and red."),
                Turn(
                    "What feature can be seen on the back of the bus?", "The back of the bus features an advertisement."
                ),
            ),
        )
    ]


@pytest.mark.parametrize("question", ["<image>\nIs it?", "Is it?\n<image>", "<image>Is it?", "Is it?"])
def test_the_marker_of_the_image_is_no_part_of_a_question(tmp_path: Path, question: str) -> None:
    [found] = read_llava(write(tmp_path / "llava.json", [asking(question)]))
    assert isinstance(found, Conversation)
    assert found.turns == (Turn("Is it?", "It is."),)


@pytest.mark.parametrize("image", [{}, {"image": ""}, {"image": None}])
def test_a_conversation_may_be_about_no_image(tmp_path: Path, image: dict[str, Any]) -> None:
    talk = [{"from": "human", "value": "How are you?"}, {"from": "gpt", "value": "Well."}]
    [found] = read_llava(write(tmp_path / "llava.json", [{"id": "1", "conversations": talk} | image]))
    assert isinstance(found, Conversation)
    assert (found.image, found.turns) == (None, (Turn("How are you?", "Well."),))


HUMAN, GPT = BUS["conversations"][:2]
BAD: list[tuple[str, Any]] = [
    ("an image is spoken of and none is named", {k: v for k, v in BUS.items() if k != "image"}),
    ("an image is spoken of and none is named", BUS | {"image": ""}),
    ("an image is spoken of and none is named", {"conversations": [], "annotation": []}),
    ("'image' is not a string", BUS | {"image": ["a.jpg"]}),
    ("'image' leaves the image folder", BUS | {"image": "../../a.jpg"}),
    ("questions and answers that do not alternate", BUS | {"conversations": []}),
    ("questions and answers that do not alternate", BUS | {"conversations": [HUMAN]}),
    ("questions and answers that do not alternate", BUS | {"conversations": [HUMAN, HUMAN, GPT]}),
    ("questions and answers that do not alternate", BUS | {"conversations": [GPT, HUMAN]}),
    ("missing key 'conversations'", {"id": "1", "image": "a.jpg"}),
    ("'conversations' is not a list", BUS | {"conversations": "hello"}),
    ("missing key 'value'", BUS | {"conversations": [{"from": "human"}]}),
    ("'value' is not a string", BUS | {"conversations": [HUMAN, GPT | {"value": 3}]}),
    ("not a JSON object where one is expected", BUS | {"conversations": ["hello"]}),
    ("not a JSON object where one is expected", ["hello"]),
]


@pytest.mark.parametrize(("reason", "entry"), BAD)
def test_a_bad_entry_is_named_and_the_next_is_read(tmp_path: Path, reason: str, entry: Any) -> None:
    path = write(tmp_path / "llava.json", [entry, BUS])
    bad, good = read_llava(path)
    assert bad == BadRecord(f"{path}: entry 0", reason)
    assert isinstance(good, Conversation)


@pytest.mark.parametrize(("written", "message"), [('{"a": 1}', "not a JSON list"), ("[{", "broken JSON")])
def test_a_file_of_another_form_is_refused(tmp_path: Path, written: str, message: str) -> None:
    path = tmp_path / "llava.json"
    path.write_text(written)
    with pytest.raises(FormatError, match=message):
        list(read_llava(path))
