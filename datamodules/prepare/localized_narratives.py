"""Localized Narratives -> shards: per image its narratives, with the time of every word, and the mouse traces.

JSON part: `narratives`: [{annotator_id, caption, words: [[begin, end, start, stop]], utterances: [[text, start,
stop]], mentions: [[begin, end, x0, y0, x1, y1]]}]; begin and end are characters of the caption, start and stop
seconds (null for a word that nobody said), boxes are in [0, 1]. `trace.npy`: float32[N, 5], columns narrative,
stroke, x, y, t, in the order of time within each narrative; x and y as fractions of the image, not clipped.
"""

import io
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from datamodules.formats.image_paths import candidate_image_paths
from datamodules.formats.localized_narratives import Narrative, read_narrative, scan_narratives
from datamodules.formats.records import BadRecord
from datamodules.prepare.corpus import Corpus, Description, ImageWork, check_keys
from datamodules.prepare.report import Report
from datamodules.prepare.word_times import time_words

# How far outside the image a trace point may lie, in fractions of it; beyond, it is a fault of the recording.
_NEAR = (-1.0, 2.0)
# The trace's float32 tells times some milliseconds apart within a day of seconds, and no longer.
_DAY = 86_400.0


def open_corpus(files: list[Path]) -> Corpus:
    """First reading: finds which records are about which image. Raises ShardError for two images of one key."""
    report = Report()
    images = _Images(files, report)
    check_keys(images)
    return Corpus("localized-narratives", files, images, describe, report)


class _Images(Sequence[ImageWork]):
    """The images in order of first appearance; of each record only its place is held, 24 bytes.

    An image's work holds the places of its records: (file, offset, line number).
    """

    def __init__(self, files: list[Path], report: Report) -> None:
        self._files = [str(path) for path in files]
        numbers: dict[tuple[str, str], int] = {}
        owners, places = array("q"), array("q")
        for file_number, path in enumerate(files):
            for place in scan_narratives(path):
                if isinstance(place, BadRecord):
                    report.counts["records read"] += 1
                    report.skip("records", place.reason, place.where)
                else:
                    owners.append(numbers.setdefault((place.dataset_id, place.image_id), len(numbers)))
                    places.extend((file_number, place.offset, place.line))
        self._names = list(numbers)
        owner = np.array(owners, dtype=np.int64)
        self._places = np.array(places, dtype=np.int64).reshape(-1, 3)[np.argsort(owner, kind="stable")]
        self._ends = np.cumsum(np.bincount(owner, minlength=len(self._names)))

    def __len__(self) -> int:
        return len(self._names)

    @overload
    def __getitem__(self, index: int) -> ImageWork: ...

    @overload
    def __getitem__(self, index: slice) -> list[ImageWork]: ...

    def __getitem__(self, index: int | slice) -> ImageWork | list[ImageWork]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        dataset_id, image_id = self._names[index]
        begin = self._ends[index - 1] if index else 0
        records = [
            (self._files[file], offset, line) for file, offset, line in self._places[begin : self._ends[index]].tolist()
        ]
        return ImageWork(dataset_id, image_id, records)


def describe(image: ImageWork, report: Report) -> Description | None:
    """Reads the narratives of an image; None where none is usable."""
    narratives: list[Narrative] = []
    traces: list[NDArray[np.float32]] = []
    for file, offset, line in image.records:
        narrative = _usable(file, offset, line, report)
        if narrative is not None:
            traces.append(_trace(narrative, len(narratives)))
            narratives.append(narrative)
    if not narratives:
        return None
    paths = candidate_image_paths(image.dataset_id, image.image_id, narratives[0].image_file)
    return Description(
        content={"narratives": [_content(narrative, report) for narrative in narratives]},
        image_paths=paths,
        records=len(narratives),
        arrays={"trace.npy": _npy(np.concatenate(traces))},
    )


def _usable(path: str, offset: int, line: int, report: Report) -> Narrative | None:
    """Reads the record at a place; None, and counted, where a model could learn nothing from it."""
    where = f"{path}:{line}"
    with open(path, "rb") as file:
        file.seek(offset)
        narrative = read_narrative(file.readline(), where)
    report.counts["records read"] += 1
    if isinstance(narrative, BadRecord):
        report.skip("records", narrative.reason, narrative.where)
        return None
    near = _near(narrative.trace)
    fault = _fault(narrative, near)
    if fault:
        report.skip("records", fault, where)
        return None
    report.counts["trace points dropped"] += int((~near).sum())
    return narrative


def _fault(narrative: Narrative, near: NDArray[np.bool_]) -> str | None:
    if not narrative.caption.strip():
        return "empty caption"
    if not near.any():
        return "no trace point"
    if any(max(abs(said.start), abs(said.stop)) > _DAY for said in narrative.utterances):
        return "an utterance beyond a day"
    return None


def _near(trace: NDArray[np.float64]) -> NDArray[np.bool_]:
    """bool[N]: the points that are finite, not far outside the image, and within a day."""
    xy, t = trace[:, 1:3], trace[:, 3:]
    fine = (np.abs(t) <= _DAY) & (xy >= _NEAR[0]) & (xy <= _NEAR[1])
    return np.asarray(fine.all(axis=1))


def _trace(narrative: Narrative, number: int) -> NDArray[np.float32]:
    """float32[N, 5]: the narrative's number, stroke, x, y, t, sorted by time; points of one time stay in order."""
    trace = narrative.trace[_near(narrative.trace)]
    trace = trace[np.argsort(trace[:, 3], kind="stable")]
    return np.insert(trace, 0, number, axis=1).astype(np.float32)


def _npy(values: NDArray[np.float32]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return buffer.getvalue()


def _content(narrative: Narrative, report: Report) -> dict[str, Any]:
    alignment = time_words(narrative.caption, narrative.utterances)
    report.counts["utterances"] += len(narrative.utterances)
    report.counts["utterances dropped"] += alignment.dropped
    report.counts["words"] += len(alignment.words)
    report.counts["words without time"] += sum(start is None for _, _, start, _ in alignment.words)
    return {
        "annotator_id": narrative.annotator_id,
        "caption": narrative.caption,
        "words": alignment.words,
        "utterances": [[said.text, said.start, said.stop] for said in narrative.utterances],
        "mentions": [[mention.begin, mention.end, *mention.box] for mention in narrative.mentions],
    }
