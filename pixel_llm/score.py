"""`pixel-llm score`: figures of predictions in a file, from any system, by the functions that `lightning test` uses."""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from datamodules.formats.masks import any_rle, union
from datamodules.formats.records import FormatError, RecordError, four_numbers, parse_json, text
from datamodules.prepare.corpus import Corpus
from datamodules.prepare.referring_corpora import open_referring
from datamodules.records import read_field
from datamodules.shard_index import open_shards, shard_folders
from pixel_llm.metrics.referring_scores import Answer, Row, Truth, compare, referring_table, score

EPILOG = """A line of the predictions is a JSON object:
  {"key": "SPLIT/EXPRESSION ID", "box": [x0, y0, x1, y1], "mask": {"size": [h, w], "counts": ...}, "no_target": false}
Boxes are in pixels of the original image; a mask is a COCO run-length encoding of its size or a list of polygons.
Box, mask and no_target may be absent; other names are ignored. Without no_target, an empty mask says that nothing is
meant. Of the annotations, the splits that the predictions name are scored, with all their expressions: those without
a line count as misses."""

Predictions = dict[str, tuple[int, dict[str, Any]]]  # key -> number of the line and the object on it
Content = tuple[str, tuple[int, int] | None, dict[str, Any]]  # split, (height, width), objects and expressions


def main(arguments: Sequence[str]) -> None:
    """`pixel-llm score referring`. Raises FormatError and ShardError with one line for files that cannot be used."""
    parser = argparse.ArgumentParser(prog="pixel-llm score", description=__doc__)
    verbs = parser.add_subparsers(required=True, metavar="WHAT")
    referring = verbs.add_parser(
        "referring",
        help="boxes and masks of referring expressions",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    referring.add_argument("--predictions", type=Path, required=True, help="file of JSON lines")
    referring.add_argument(
        "--annotations",
        type=Path,
        nargs="+",
        required=True,
        help="folders of shards, folders of such folders, or raw files and folders as `prepare refcoco` takes them",
    )
    referring.add_argument("--json", type=Path, help="file for the figures, shares in [0, 1]")
    options = parser.parse_args(arguments)
    score_referring(options.predictions, options.annotations, options.json)


def score_referring(file: Path, annotations: Sequence[Path], out: Path | None) -> None:
    """Prints the table, and on the error stream how many expressions have no prediction."""
    predictions = read_predictions(file)
    truths = read_truths(annotations, {key.partition("/")[0] for key in predictions})
    rows = compare_predictions(file, predictions, truths)
    missing = {key: truth for key, truth in truths.items() if key not in rows}
    for split, count in Counter(truth.split for truth in missing.values()).items():
        sys.stderr.write(f"{split}: {count:,} expressions without a prediction, counted as misses\n")
    scores = score([*rows.values(), *(compare(truth, None) for truth in missing.values())])
    sys.stdout.write(referring_table(scores) + "\n")
    if out:
        out.write_text(json.dumps(scores, indent=1) + "\n")


def read_predictions(file: Path) -> Predictions:
    """The lines of a file.

    Raises FormatError, naming the line, for one that is no object with a key, and for a key that came before.
    """
    found: Predictions = {}
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                record = parse_json(line)
                key = text(record, "key")
            except RecordError as error:
                raise FormatError(f"{file}:{number}: {error}") from None
            if key in found:
                raise FormatError(f"{file}:{number}: a second prediction for {key!r}, after line {found[key][0]}")
            found[key] = (number, record)
    if not found:
        raise FormatError(f"{file}: no predictions")
    return found


def compare_predictions(file: Path, predictions: Predictions, truths: Mapping[str, Truth]) -> dict[str, Row]:
    """Every prediction held against its truth, by key.

    Raises FormatError, naming the line, for an unknown key and for an answer that is none.
    """
    rows = {}
    for key, (number, record) in predictions.items():
        try:
            if key not in truths:
                splits = ", ".join(sorted({truth.split for truth in truths.values()}))
                raise ValueError(f"the annotations have no expression {key!r} (their splits: {splits})")
            rows[key] = compare(truths[key], _answer(record, truths[key].size))
        except ValueError as error:
            raise FormatError(f"{file}:{number}: {error}") from None
    return rows


def _answer(record: dict[str, Any], size: tuple[int, int] | None) -> Answer:
    box = mask = None
    if record.get("box") is not None:
        box = four_numbers(record, "box")
        if box[2] < box[0] or box[3] < box[1]:
            raise RecordError("'box' has x1 < x0 or y1 < y0: is it x y width height?")
    if record.get("mask") is not None:
        if size is None:
            raise RecordError("a mask, while the annotations do not say how large the image is")
        empty = {"size": list(size), "counts": [size[0] * size[1]]}
        mask = any_rle(record["mask"] if record["mask"] != [] else empty, *size)
    denied = record.get("no_target")
    if denied is not None and not isinstance(denied, bool):
        raise RecordError("'no_target' is neither true nor false")
    return Answer(box, mask, denied)


def read_truths(paths: Sequence[Path], splits: Collection[str]) -> dict[str, Truth]:
    """The expressions of some splits by their keys.

    paths: folders of shards, folders of such folders, and raw annotations in any form that is prepared.
    Raises ShardError or FormatError for what is none of these, and where two expressions have the same key.
    """
    truths: dict[str, Truth] = {}
    raw = [path for path in paths if not shard_folders(path)]
    folders = [folder for path in paths for folder in shard_folders(path)]
    for contents in (*map(_shard_contents, folders), _raw_contents(raw, splits)):
        for split, size, content in contents:
            for key, truth in _truths(split, size, content) if split in splits else ():
                if key in truths:
                    raise FormatError(f"the annotations have two expressions {key!r}")
                truths[key] = truth
    return truths


def _shard_contents(folder: Path) -> Iterator[Content]:
    for data in read_field(open_shards(folder, kinds=("referring",)), "json"):
        content = json.loads(data)
        yield content["dataset_id"], (content["height"], content["width"]), content


def _raw_contents(paths: list[Path], splits: Collection[str]) -> Iterator[Content]:
    corpora: list[Corpus] = open_referring(paths) if paths else []
    for corpus in corpora:
        images = [image for image in corpus.images if image.dataset_id in splits]
        for image in images:
            description = corpus.describe(image, corpus.report)
            if description:
                size = description.size
                yield image.dataset_id, (size[1], size[0]) if size else None, description.content
        unusable = corpus.report.total_skipped("records")
        if images and unusable:
            reason = corpus.report.main_reason()
            sys.stderr.write(f"{images[0].dataset_id}: {unusable:,} expressions left out ({reason})\n")


def _truths(split: str, size: tuple[int, int] | None, content: dict[str, Any]) -> Iterator[tuple[str, Truth]]:
    for expression in content["expressions"]:
        objects = [content["objects"][index] for index in expression["targets"]]
        boxes = [found["bbox"] for found in objects]
        mask = union([found["rle"] for found in objects], *size) if size else None
        yield f"{split}/{expression['id']}", Truth(split, expression["kind"], size, boxes, mask)
