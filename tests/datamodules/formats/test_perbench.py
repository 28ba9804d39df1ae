"""PerBench's three files: what is read from them, and one line for every way they can be wrong."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from datamodules.formats.perbench import FILES, Item, pieces, read_perbench
from datamodules.formats.records import FormatError

HEIGHT, WIDTH = 6, 8


def rle(x0: int, y0: int, x1: int, y1: int, height: int = HEIGHT, width: int = WIDTH) -> dict[str, Any]:
    mask = np.zeros((height, width), np.uint8, order="F")
    mask[y0:y1, x0:x1] = 1
    return {"size": [height, width], "counts": coco_mask.encode(mask)["counts"].decode()}


def files() -> dict[str, list[Any]]:
    """Two descriptions, two choices and one segmentation, about two images."""
    a, b, c = rle(0, 0, 2, 2), rle(3, 1, 6, 5), rle(6, 0, 8, 6)
    question = "What colour is it? A. red B. blue"
    return {
        "description": [
            {"image_name": "1.jpg", "object_annotations": [{"segmentation": a, "caption": "A mug."}]},
            {"image_name": "p/2.jpg", "object_annotations": [{"segmentation": b, "caption": "<Prompt0>: A cat."}]},
        ],
        "choice": [
            {
                "image_name": "1.jpg",
                "mcqs": [
                    {"object": a, "question": question, "answer": "B. blue"},
                    {"object": c, "question": "Is it a cat or a dog?", "answer": "a dog"},
                ],
            }
        ],
        "segmentation": [
            {
                "image_name": "1.jpg",
                "question": "Which one is left of obj1?",
                "answer": "Left of obj1 is obj12, and not obj2.",
                "segmentations": {"obj12": a, "obj1": b, "obj2": rle(0, 0, 0, 0)},
            }
        ],
    }


def write(folder: Path, content: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for task, entries in content.items():
        (folder / FILES[task]).write_text(json.dumps(entries))
    return folder


def test_the_questions_of_all_files(tmp_path: Path) -> None:
    items = read_perbench(write(tmp_path, files()))
    assert [(item.task, item.number, item.image) for item in items] == [
        ("description", 0, "1.jpg"),
        ("description", 1, "p/2.jpg"),
        ("choice", 0, "1.jpg"),
        ("choice", 1, "1.jpg"),
        ("segmentation", 0, "1.jpg"),
    ]
    assert {item.size for item in items} == {(HEIGHT, WIDTH)}
    assert [item.options for item in items] == [(), (), ("red", "blue"), (), ()]
    assert items[3].where == f"{tmp_path}/STBench_MCQ.json: entry 0, question 1"
    assert items[3].regions[0].mask == rle(6, 0, 8, 6)


def test_tags_in_the_question_are_given_and_others_in_the_answer_are_asked_for(tmp_path: Path) -> None:
    item: Item = read_perbench(write(tmp_path, files()))[-1]
    assert [region.tag for region in item.regions] == ["obj12", "obj1", "obj2"]
    assert item.inputs == (1,)
    assert item.targets == (0, 2)


@pytest.mark.parametrize(
    ("said", "tags", "want"),
    [
        ("is <a> by <b>?", ["<b>", "<a>"], ["is ", 1, " by ", 0, "?"]),
        ("obj1", ["obj1"], [0]),
        ("obj12 obj1", ["obj1", "obj12"], [1, " ", 0]),
        ("obj12", ["obj1"], ["obj12"]),
        ("xobj1 obj1.", ["obj1"], ["xobj1 ", 0, "."]),
        ("the cat and the cat's dog", ["the cat", "the cat's dog"], [0, " and ", 1]),
        ("a+b", ["a+b"], [0]),
        ("none", [], ["none"]),
        ("", [], []),
    ],
)
def test_a_text_is_cut_at_its_tags(said: str, tags: list[str], want: list[str | int]) -> None:
    assert pieces(said, tags) == want
    assert "".join(tags[one] if isinstance(one, int) else one for one in pieces(said, tags)) == said


def changed(task: str, *path: Any, value: Any = None) -> dict[str, Any]:
    """`files` with another value at a place, or with nothing there."""
    content: Any = files()
    entry = content[task][0]
    for key in path[:-1]:
        entry = entry[key]
    if value is None:
        del entry[path[-1]]
    else:
        entry[path[-1]] = value
    return content


OBJECT, MCQ, TAG = ("object_annotations", 0), ("mcqs", 0), ("segmentations", "obj1")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (changed("description", "image_name"), "entry 0: missing key 'image_name'"),
        (changed("description", "image_name", value="../1.jpg"), "entry 0: 'image_name' leaves the image folder"),
        (changed("description", *OBJECT, "caption"), "entry 0: object 0: missing key 'caption'"),
        (changed("description", *OBJECT, "caption", value=" "), "entry 0: object 0: 'caption' is empty"),
        (changed("description", *OBJECT, "segmentation", value=rle(0, 0, 0, 0)), "entry 0: object 0: empty mask"),
        (
            changed("description", *OBJECT, "segmentation", value=[[0, 0, 1, 0, 1, 1]]),
            "entry 0: object 0: a mask that is no run lengths with a size [height, width]",
        ),
        (
            changed("description", *OBJECT, "segmentation", value={"size": [HEIGHT, WIDTH], "counts": [3]}),
            "entry 0: object 0: run lengths that do not fill the image",
        ),
        (
            changed("choice", *MCQ, "object", value=rle(0, 0, 2, 2, width=9)),
            "entry 0: question 0: a mask of [6, 9], where an earlier one of 1.jpg is of [6, 8]",
        ),
        (
            changed("choice", *MCQ, "answer", value="green"),
            "entry 0: question 0: the answer 'green' is none of the options 'red', 'blue'",
        ),
        (changed("choice", "mcqs", value={}), "entry 0: 'mcqs' is not a list"),
        (
            changed("segmentation", *TAG, value=rle(0, 0, 2, 2, height=7)),
            "entry 0: tag 'obj1': a mask of [7, 8], where an earlier one of 1.jpg is of [6, 8]",
        ),
        (changed("segmentation", *TAG, value=rle(0, 0, 0, 0)), "entry 0: tag 'obj1': empty mask"),
        (
            changed("segmentation", "segmentations", "obj3", value=rle(0, 0, 1, 1)),
            "entry 0: tag 'obj3': neither the question nor the answer names it",
        ),
        (
            changed("segmentation", "answer", value="obj1 obj2"),
            "entry 0: tag 'obj12': neither the question nor the answer names it",
        ),
        (
            changed("segmentation", "question", value="obj1 obj2 obj12"),
            "entry 0: the answer names no tag that the question does not name: nothing is to be segmented",
        ),
        (
            changed("segmentation", "question", value="Is <Prompt3> left of obj1?"),
            "entry 0: 'Is <Prompt3> left of obj1?' names <Prompt3>, but there is no mask of it (there are: obj12, ",
        ),
        (
            changed("segmentation", "segmentations", "<obj3>", value=rle(0, 0, 1, 1)),
            "entry 0: tag '<obj3>': neither the question nor the answer names it",
        ),
        (
            changed("choice", *MCQ, "question", value="Is <Prompt1> red? A. red B. blue"),
            "entry 0: question 0: 'Is <Prompt1> red? A. red B. blue' names <Prompt1>, but there is no mask of it",
        ),
        (changed("segmentation", "segmentations", value=[]), "entry 0: 'segmentations' is no object of tags"),
        ({**files(), "choice": {}}, "not a JSON list"),
        ({**files(), "choice": [1]}, "entry 0: not a JSON object where one is expected"),
    ],
)
def test_whatever_is_wrong_is_one_line_with_file_and_entry(tmp_path: Path, content: dict, reason: str) -> None:
    with pytest.raises(FormatError) as raised:
        read_perbench(write(tmp_path, content))
    said = str(raised.value)
    [task] = [task for task, entries in content.items() if entries != files()[task]]
    wanted = f"{tmp_path / FILES[task]}: {reason}"
    assert said.startswith(wanted)
    assert "\n" not in said


def test_a_name_like_the_others_needs_a_mask(tmp_path: Path) -> None:
    content = files()
    asked = {"question": "Is <a> left of <b>?", "answer": "<c>", "segmentations": {"<a>": rle(0, 0, 2, 2)}}
    content["segmentation"] = [{"image_name": "1.jpg", **asked}]
    with pytest.raises(FormatError, match=r"entry 0: 'Is <a> left of <b>\?' names <b>, .* \(there are: <a>\)$"):
        read_perbench(write(tmp_path, content))
    content["segmentation"][0] |= {"question": "Is <a> it?", "answer": "<c>"}
    with pytest.raises(FormatError, match=r"entry 0: '<c>' names <c>, .* \(there are: <a>\)$"):
        read_perbench(write(tmp_path, content))


def test_all_three_files_must_be_there(tmp_path: Path) -> None:
    folder = write(tmp_path, files())
    (folder / "STBench_MCQ.json").unlink()
    with pytest.raises(FormatError, match=r"three files, .* and STBench_MCQ.json is missing"):
        read_perbench(folder)
    with pytest.raises(FormatError, match="no question"):
        read_perbench(write(tmp_path / "empty", {task: [] for task in FILES}))
