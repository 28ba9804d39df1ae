"""The reader of MDETR's files."""

import json
from pathlib import Path
from typing import Any

import pytest

from datamodules.formats.mdetr import is_mdetr, read_mdetr
from datamodules.formats.records import FormatError
from datamodules.formats.referring import ReferringSplit, ReferringSplits
from tests.datamodules.referring_data import annotation

Json = dict[str, Any]


def caption(number: int, said: str, original: int, file_name: str = "", **changes: Any) -> Json:
    name = file_name or f"COCO_train2014_{original:012d}.jpg"
    return {
        **{"id": number, "caption": said, "original_id": original, "file_name": name, "width": 40, "height": 30},
        **changes,
    }


def read(path: Path, images: list[Any], annotations: list[Any], name: str | None = None) -> dict[str, ReferringSplit]:
    splits = ReferringSplits(name)
    whole = json.loads(json.dumps({"images": images, "annotations": annotations}))
    assert is_mdetr(whole)
    read_mdetr(path, whole, splits)
    return {split.name: split for split in splits.all()}


def expressions(split: ReferringSplit) -> list[tuple[str, str, str, tuple[str, ...]]]:
    return [
        (image.image_id, one.expression_id, one.text, one.targets)
        for image in split.images.values()
        for one in image.expressions
    ]


def test_entries_of_one_image_are_gathered() -> None:
    images = [caption(1, "left dog", 71), caption(2, "a cat", 72), caption(3, "dog on the left", 71)]
    annotations = [
        annotation(10 + number, number, original_id=original, tokens_positive=[[0, 3]])
        for number, original in ((1, 500), (2, 600), (3, 500))
    ]
    for one in annotations:
        one["bbox"] = [1, 2, 3, 4]
    splits = read(Path("data/finetune_refcoco_val.json"), images, annotations)
    split = splits["refcoco_unc_val"]
    assert (len(split.refs), split.sentences, split.image_ids) == (2, 3, {"71", "72"})
    assert expressions(split) == [
        ("71", "1", "left dog", ("500",)),
        ("71", "3", "dog on the left", ("500",)),
        ("72", "2", "a cat", ("600",)),
    ]
    assert list(split.images) == ["coco/71", "coco/72"]
    assert split.images["coco/71"].objects["500"].box == (1, 2, 4, 6)


@pytest.mark.parametrize(
    ("refexp_ids", "expected"), [((40, 41), ("40", "41")), ((40, 40), ("8", "9"))], ids=["unique", "of merged sets"]
)
def test_ids_of_expressions(refexp_ids: tuple[int, int], expected: tuple[str, str]) -> None:
    images = [caption(8 + i, "a dog", 71, refexp_id=refexp_id) for i, refexp_id in enumerate(refexp_ids)]
    [split] = read(Path("x_train.json"), images, [annotation(1, 8), annotation(1, 9)]).values()
    assert tuple(name for _, name, _, _ in expressions(split)) == expected


def test_each_phrase_of_a_caption_is_an_expression() -> None:
    said = "Two men in hats beside a dog"
    images = [caption(5, said, 1000, "1000.jpg"), caption(6, "A dog", 1000, "1000.jpg")]
    spans = [(1, 5, [[0, 7]]), (2, 5, [[0, 7]]), (3, 5, [[23, 28]]), (4, 6, [[2, 5]]), (5, 5, [[11, 15], [0, 3]])]
    annotations = [annotation(number, entry, tokens_positive=span) for number, entry, span in spans]
    splits = read(Path("final_flickr_separateGT_test.json"), images, annotations)
    assert list(splits) == ["flickr_test"]
    assert expressions(splits["flickr_test"]) == [
        ("1000", "5_0", "Two men", ("1", "2")),
        ("1000", "5_1", "a dog", ("3",)),
        ("1000", "5_2", "Two hats", ("5",)),
        ("1000", "6_0", "dog", ("4",)),
    ]
    assert list(splits["flickr_test"].images) == ["flickr/1000"]


def test_the_mixed_set_is_split_by_the_source_of_its_photos() -> None:
    images = [
        caption(1, "a dog and a cat", 71, data_source="coco"),
        caption(2, "a red cup", 71, "71.jpg", data_source="vg"),
    ]
    spans = [(1, 1, [[0, 5]]), (2, 1, [[10, 15]]), (3, 2, [[0, 9]])]
    annotations = [annotation(number, entry, tokens_positive=span) for number, entry, span in spans]
    splits = read(Path("final_mixed_train.json"), images, annotations)
    assert {name: list(split.images) for name, split in splits.items()} == {
        "mixed_coco_train": ["coco/71"],
        "mixed_vg_train": ["vg/71"],
    }
    [merged] = read(Path("final_mixed_train.json"), images, annotations, "goldg_train").values()
    assert [image.image_id for image in merged.images.values()] == ["71", "71-2"]  # two photos of one number


BAD: dict[str, tuple[Any, Any, str]] = {
    "no annotation": (caption(1, "a", 7), None, "a caption without annotations"),
    "not an entry": (7, None, "not a JSON object where one is expected"),
    "out of the folder": (caption(1, "a", 7, "../x.jpg"), annotation(1), "'file_name' leaves the image folder"),
    "an id out of the folder": (
        caption(1, "a", 0, original_id="../7"),
        annotation(1),
        "'image_id' leaves the image folder",
    ),
    "no area": (caption(1, "a", 7), annotation(1, bbox=[0, 0, 3, 0]), "zero-area box"),
    "no box": (caption(1, "a", 7), annotation(1, bbox=None), "'bbox' is not a list"),
    "a size beyond all": (caption(1, "a", 7, width=10**9), annotation(1), "an impossible image size"),
    "no words": (caption(1, None, 7), annotation(1), "'caption' is not a string"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_entry_is_named(name: str) -> None:
    entry, found, reason = BAD[name]
    good = caption(2, "good", 8)
    [split] = read(Path("x_train.json"), [entry, good], [found, annotation(2, image=2)]).values()
    assert [bad.reason for bad in split.bad] == [reason]
    assert [said for _, _, said, _ in expressions(split)] == ["good"]


@pytest.mark.parametrize("spans", [[[3, 99]], [[2, 1]], [], [["a", 1]], [5], None, "all"])
def test_a_phrase_outside_its_caption_is_named(spans: Any) -> None:
    annotations = [
        annotation(1, tokens_positive=[[0, 1]]),
        annotation(2, tokens_positive=spans),
        annotation(3, image=2, tokens_positive=[[0, 4]]),
    ]
    [split] = read(Path("x_train.json"), [caption(1, "a dog", 7), caption(2, "good", 8)], annotations).values()
    assert [said for _, _, said, _ in expressions(split)] == ["a", "good"]
    assert len(split.bad) == 1


def test_a_file_must_say_its_split() -> None:
    with pytest.raises(FormatError, match=r"mine\.json: neither its records nor its name say the split"):
        read(Path("mine.json"), [caption(1, "a", 7)], [annotation(1)])
    assert list(read(Path("mine.json"), [caption(1, "a", 7)], [annotation(1)], "mine_val")) == ["mine_val"]
