"""`pixel-llm score`: figures of predictions in a file, from any system, by the functions that `lightning test` uses."""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from datamodules.formats.masks import any_rle, union
from datamodules.formats.records import FormatError, RecordError, four_numbers, parse_json, text, value
from datamodules.records import read_field
from datamodules.shard_index import MANIFEST, ShardError, open_shards
from pixel_llm.metrics.referring_scores import Answer, Row, Truth, compare, referring_table, score

EPILOG = """A line of the predictions is a JSON object:
  {"key": "SPLIT/EXPRESSION ID", "box": [x0, y0, x1, y1], "mask": {"size": [h, w], "counts": ...}, "no_target": false}
Boxes are in pixels of the original image; a mask is a COCO run-length encoding of its size or a list of polygons.
Box, mask and no_target may be absent; other names are ignored. Without no_target, an empty mask says that nothing is
meant. Expressions without a line count as misses."""


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
    referring.add_argument("--annotations", type=Path, nargs="+", required=True, help="folders of shards")
    referring.add_argument("--json", type=Path, help="file for the figures")
    score_referring(parser.parse_args(arguments))


def score_referring(options: argparse.Namespace) -> None:
    """Prints the table, and the number of expressions without an answer on the error stream."""
    truths = read_truths(options.annotations)
    rows = read_rows(options.predictions, truths)
    missing = Counter(truth.split for key, truth in truths.items() if key not in rows)
    for split, count in missing.items():
        sys.stderr.write(f"{split}: {count:,} expressions have no prediction and count as misses\n")
    rows |= {key: compare(truth, None) for key, truth in truths.items() if key not in rows}
    scores = score(rows.values())
    sys.stdout.write(referring_table(scores) + "\n")
    if options.json:
        options.json.write_text(json.dumps(scores, indent=1) + "\n")


def read_truths(paths: Sequence[Path]) -> dict[str, Truth]:
    """The expressions of shards by their keys; a path is a folder of shards or a folder of such folders.

    Raises ShardError for what is no such folder, and where two expressions have the same key.
    """
    truths: dict[str, Truth] = {}
    for path in paths:
        folders = sorted(manifest.parent for manifest in path.glob(f"*/{MANIFEST}"))
        for folder in [path] if (path / MANIFEST).is_file() or not folders else folders:
            for data in read_field(open_shards(folder, kinds=("referring",)), "json"):
                for key, truth in _truths_of_image(json.loads(data)):
                    if key in truths:
                        raise ShardError(f"{folder}: two expressions have the key {key!r}")
                    truths[key] = truth
    if not truths:
        raise ShardError(f"no expressions in {', '.join(map(str, paths))}")
    return truths


def _truths_of_image(content: dict[str, Any]) -> Iterator[tuple[str, Truth]]:
    split, height, width = content["dataset_id"], content["height"], content["width"]
    for expression in content["expressions"]:
        objects = [content["objects"][index] for index in expression["targets"]]
        mask = union([found["rle"] for found in objects], height, width)
        boxes = [found["bbox"] for found in objects]
        yield f"{split}/{expression['id']}", Truth(split, expression["kind"], (height, width), boxes, mask)


def read_rows(file: Path, truths: dict[str, Truth]) -> dict[str, Row]:
    """Every prediction compared with its truth, by key.

    Raises FormatError, naming the line, for one that is broken, has an unknown key, or one that came before.
    """
    rows: dict[str, Row] = {}
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                record = parse_json(line)
                key = text(record, "key")
                if key not in truths:
                    raise ValueError(f"no expression has the key {key!r}")
                if key in rows:
                    raise ValueError(f"a second prediction for {key!r}")
                rows[key] = compare(truths[key], _answer(record, truths[key].size))
            except ValueError as error:
                raise FormatError(f"{file}:{number}: {error}") from None
    return rows


def _answer(record: dict[str, Any], size: tuple[int, int]) -> Answer:
    box = mask = None
    if record.get("box") is not None:
        box = four_numbers(record, "box")
        if box[2] < box[0] or box[3] < box[1]:
            raise RecordError("'box' is not x0 y0 x1 y1: its right or lower edge comes first")
    if record.get("mask") is not None:
        found = value(record, "mask")
        mask = any_rle(found if found != [] else {"size": list(size), "counts": [size[0] * size[1]]}, *size)
    denied = record.get("no_target")
    if denied is not None and not isinstance(denied, bool):
        raise RecordError("'no_target' is neither true nor false")
    return Answer(box, mask, denied)
