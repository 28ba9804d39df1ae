"""The Localized Narratives reader: real and published records, and every way a record can be bad."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules.formats.localized_narratives import (
    Mention,
    Narrative,
    RecordPlace,
    parse_narrative,
    read_narrative,
    read_narratives,
    scan_narratives,
)
from datamodules.formats.records import BadRecord


def record(**changes: Any) -> dict[str, Any]:
    return {
        "dataset_id": "mscoco_train2017",
        "image_id": "391895",
        "annotator_id": 7,
        "caption": "a red ball",
        "timed_caption": [{"utterance": "a red ball", "start_time": 0.5, "end_time": 1}],
        "traces": [[{"x": 0.1, "y": 0.2, "t": 0.0}, {"x": 0, "y": 1.2, "t": 1}], [{"x": 1, "y": 1, "t": 2}]],
        **changes,
    }


def line(**changes: Any) -> bytes:
    return json.dumps(record(**changes)).encode()


def test_fields_of_a_record() -> None:
    mentions = [{"begin": 2, "end": 10, "bbox": [0.1, 0.2, 0.3, 0.4]}]
    narrative = parse_narrative(line(mentions=mentions, image_file="a/b.jpg"))
    assert (narrative.image_id, narrative.annotator_id, narrative.image_file) == ("391895", "7", "a/b.jpg")
    assert [(u.text, u.start, u.stop) for u in narrative.utterances] == [("a red ball", 0.5, 1.0)]
    assert narrative.mentions == (Mention(2, 10, (0.1, 0.2, 0.3, 0.4)),)
    assert narrative.trace.tolist() == [[0, 0.1, 0.2, 0.0], [0, 0, 1.2, 1], [1, 1, 1, 2]]


def test_points_that_are_not_finite_are_passed_on() -> None:
    narrative = parse_narrative(line(traces=[[{"x": float("nan"), "y": 0, "t": 1}]]))
    assert np.isnan(narrative.trace[0, 1])


def test_no_strokes_give_an_empty_trace() -> None:
    assert parse_narrative(line(traces=[])).trace.shape == (0, 4)


def without(key: str) -> bytes:
    return json.dumps({k: v for k, v in record().items() if k != key}).encode()


UTTERANCE = {"utterance": "a", "start_time": 0, "end_time": 1}
BAD = {
    "broken JSON": line()[:-5],
    "not UTF-8": line().replace(b"red", b"\xff\xfe"),
    "not a JSON object where one is expected": b"[1, 2]",
    **{f"missing key {key!r}": without(key) for key in record()},
    "'caption' is not a string": line(caption=3),
    "'caption' is not valid Unicode": line(caption="\ud800"),
    "'image_id' is neither a string nor a whole number": line(image_id=True),
    "'image_id' is empty": line(image_id=" "),
    "'image_id' leaves the image folder": line(image_id="../../etc/passwd"),
    "'image_file' leaves the image folder": line(image_file="/etc/passwd"),
    "'timed_caption' is not a list": line(timed_caption={}),
    "'start_time' is not a finite number": line(timed_caption=[{**UTTERANCE, "start_time": float("nan")}]),
    "'end_time' is not a finite number": line(timed_caption=[{**UTTERANCE, "end_time": 10**400}]),
    "'end_time' is not a number": line(timed_caption=[{**UTTERANCE, "end_time": "1"}]),
    "missing key 'utterance'": line(timed_caption=[{"start_time": 0, "end_time": 1}]),
    "'traces' is not a list of strokes of points with x, y and t": line(traces=[[{"x": 1, "y": 1}]]),
    "'traces' holds something that is not a number": line(traces=[[{"x": "0.5", "y": 1, "t": 1}]]),
    "a mention's span is not within the caption": line(mentions=[{"begin": 2, "end": 11, "bbox": [0, 0, 1, 1]}]),
    "a mention's box has its corners swapped": line(mentions=[{"begin": 0, "end": 1, "bbox": [1, 0, 0, 1]}]),
    "'bbox' does not hold four numbers": line(mentions=[{"begin": 0, "end": 1, "bbox": [0, 0, 1]}]),
    "'begin' is not a whole number": line(mentions=[{"begin": 0.0, "end": 1, "bbox": [0, 0, 1, 1]}]),
}


@pytest.mark.parametrize("reason", BAD)
def test_a_bad_record_gives_its_place_and_reason(reason: str) -> None:
    assert read_narrative(BAD[reason], "n.jsonl:12") == BadRecord("n.jsonl:12", reason)


@pytest.mark.parametrize(
    "traces",
    [1, [1], [[1]], [None], [[None]], [{"x": 1}], [[{"x": None, "y": 1, "t": 1}]], [[{"x": [1], "y": 1, "t": 1}]]],
)
def test_traces_of_any_other_shape_are_refused(traces: Any) -> None:
    assert isinstance(read_narrative(line(traces=traces), "n.jsonl:1"), BadRecord)


def test_deeply_nested_json_is_refused() -> None:
    assert read_narrative(b"[" * 100_000, "n.jsonl:1") == BadRecord("n.jsonl:1", "broken JSON")


def test_a_bad_line_does_not_hide_the_next(tmp_path: Path) -> None:
    path = tmp_path / "n.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + line() + b"\n\n{oops\n" + line(image_id="2"))
    found = list(read_narratives(path))
    assert [type(item) for item in found] == [Narrative, BadRecord, Narrative]
    assert found[1].where == f"{path}:3"


def test_scan_finds_the_lines_that_reading_finds(tmp_path: Path) -> None:
    path = tmp_path / "n.jsonl"
    reordered = json.dumps({"caption": "é", **record(image_id="x/2")}, sort_keys=True).encode()
    path.write_bytes(b"\n".join([line(), b"", reordered, b"{oops", line(image_id=3)]))
    places = list(scan_narratives(path))
    assert places[2] == BadRecord(f"{path}:4", "broken JSON")
    good = [place for place in places if isinstance(place, RecordPlace)]
    assert [(place.image_id, place.line) for place in good] == [("391895", 1), ("x/2", 3), ("3", 5)]
    data = path.read_bytes()
    for place in good:
        narrative = parse_narrative(data[place.offset :].split(b"\n")[0])
        assert (narrative.dataset_id, narrative.image_id) == (place.dataset_id, place.image_id)


def test_scan_is_not_misled_by_a_caption_that_looks_like_a_record(tmp_path: Path) -> None:
    path = tmp_path / "n.jsonl"
    trap = '{"dataset_id": "d", "image_id": "trap"'
    path.write_text(json.dumps({"caption": trap, **record(caption=trap)}))
    assert [place.image_id for place in scan_narratives(path)] == ["391895"]


@pytest.mark.shared
def test_real_records_are_read_whole(shared: Path) -> None:
    narratives = []
    for name in ("single_keyframe", "per_keyframe"):
        path = shared / "samples/localized_narratives" / f"vidln_as_ln_{name}.jsonl"
        raw = [json.loads(text) for text in path.read_text().splitlines()]
        read = list(read_narratives(path))
        assert [n.caption for n in read] == [r["caption"] for r in raw]
        assert [len(n.trace) for n in read] == [sum(map(len, r["traces"])) for r in raw]
        narratives += read
    assert len(narratives) == 56
    assert sum(len(n.trace) for n in narratives) == 10_104


@pytest.mark.shared
def test_records_of_the_published_code_are_read(shared: Path) -> None:
    raw = json.loads((shared / "golden/published/ln_annotations.json").read_text())
    for found, wanted in zip([parse_narrative(json.dumps(r).encode()) for r in raw], raw, strict=True):
        assert [u.text for u in found.utterances] == [u["utterance"] for u in wanted["timed_caption"]]
        points = [[p["x"], p["y"], p["t"]] for stroke in wanted["traces"] for p in stroke]
        np.testing.assert_array_equal(found.trace[:, 1:], points)
