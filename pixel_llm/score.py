"""`pixel-llm score`: figures of predictions in a file, from any system, by the functions that `lightning test` uses."""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from datamodules.formats.masks import any_rle, union
from datamodules.formats.records import FormatError, RecordError, check_pixels
from datamodules.prepare.referring_corpora import open_referring
from pixel_llm.metrics.referring_scores import Answer, Row, Truth, compare, referring_table, score
from pixel_llm.score_files import answered_box, check_once, named_splits, read_contents, read_lines

REFERRING = """A line of the predictions is a JSON object:
  {"key": "SPLIT/EXPRESSION ID", "box": [x0, y0, x1, y1], "mask": {"size": [h, w], "counts": ...}, "no_target": false}
Boxes are in pixels of the original image; a mask is a COCO run-length encoding of its size or a list of polygons.
Box, mask and no_target may be absent; other names are ignored. Without no_target, an empty mask says that nothing is
meant. Of the annotations, the splits that the predictions name are scored, with all their expressions: those without
a line count as misses."""

DENSE = """A line of the predictions is a JSON object, any number of them for an image:
  {"key": "SPLIT/IMAGE ID", "box": [x0, y0, x1, y1], "caption": "a red ball", "score": 0.9}
Boxes are in pixels of the original image; other names are ignored. Of the annotations, the splits that the predictions
name are scored, with all their images: in those without a line nothing was found."""

REGIONS = """A line of the predictions is a JSON object:
  {"key": "SPLIT/REGION ID", "caption": "a red ball"}
Other names are ignored. Of the annotations, the splits that the predictions name are scored, with all their regions: of
those without a line nothing was said."""

PERBENCH = """A line of the predictions is a JSON object, of a form for each task:
  {"key": "SPLIT/description/NUMBER", "answer": "A red mug with a chipped rim, left of the kettle."}
  {"key": "SPLIT/choice/NUMBER", "answer": "B. red"}
  {"key": "SPLIT/segmentation/NUMBER", "masks": [{"size": [h, w], "counts": ...}, ...], "forced_masks": [...]}
SPLIT is the name of the annotations' folder, NUMBER counts the questions of a file from 0. Masks are COCO run-length
encodings of the image's size or lists of polygons, [] where nothing was segmented; forced_masks may be absent: what
a second attempt gave then, which the mode paper takes. Of the annotations, the tasks that the predictions name are
scored, with all their questions: to those without a line nothing was answered."""

Predictions = dict[str, tuple[int, dict[str, Any]]]  # key -> number of the line and the object on it


def main(arguments: Sequence[str]) -> None:
    """`pixel-llm score WHAT`. Raises FormatError and ShardError with one line for files that cannot be used."""
    parser = argparse.ArgumentParser(prog="pixel-llm score", description=__doc__)
    verbs = parser.add_subparsers(required=True, metavar="WHAT")
    referring = _add_verb(verbs, "referring", "boxes and masks of referring expressions", REFERRING, "refcoco")
    referring.set_defaults(run=lambda options: score_referring(options.predictions, options.annotations, options.json))
    dense = _add_verb(verbs, "dense", "the objects that were found in images, with their captions", DENSE, "regions")
    dense.add_argument("--single-references", action="store_true", help="do not merge true regions that overlap")
    dense.add_argument(
        "--lua-compat", action="store_true", help="match as DenseCap's program, for its and GRiT's tables"
    )
    dense.set_defaults(run=_score_dense)
    regions = _add_verb(verbs, "regions", "captions of given boxes", REGIONS, "regions")
    regions.add_argument("--merge-references", action="store_true", help="of true regions that overlap by IoU 0.7")
    regions.set_defaults(run=_score_regions)
    perbench = _add_verb(verbs, "perbench", "answers to questions about regions", PERBENCH, "perbench")
    perbench.add_argument("--mode", choices=("paper", "strict"), default="strict", help="paper: as the authors count")
    perbench.set_defaults(run=_score_perbench)
    options = parser.parse_args(arguments)
    options.run(options)


def _add_verb(verbs: Any, name: str, what: str, epilog: str, raw: str) -> argparse.ArgumentParser:
    verb: argparse.ArgumentParser = verbs.add_parser(
        name, help=what, description=what, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verb.add_argument("--predictions", type=Path, required=True, help="file of JSON lines")
    verb.add_argument(
        "--annotations",
        type=Path,
        nargs="+",
        required=True,
        help=f"folders of shards, folders of such folders, or raw annotations as `prepare {raw}` takes them",
    )
    verb.add_argument("--json", type=Path, help="file for the figures, shares in [0, 1]")
    return verb


def _score_dense(options: argparse.Namespace) -> None:
    from pixel_llm.metrics.dense_captioning_scores import Protocol
    from pixel_llm.score_regions import score_dense

    protocol = Protocol(not options.single_references, options.lua_compat)
    score_dense(options.predictions, options.annotations, protocol, options.json)


def _score_regions(options: argparse.Namespace) -> None:
    from pixel_llm.score_regions import score_regions

    score_regions(options.predictions, options.annotations, options.merge_references, options.json)


def _score_perbench(options: argparse.Namespace) -> None:
    from pixel_llm.score_perbench import score_perbench

    score_perbench(options.predictions, options.annotations, options.mode, options.json)


def score_referring(file: Path, annotations: Sequence[Path], out: Path | None) -> None:
    """Prints the table, and on the error stream how many expressions have no prediction."""
    predictions = read_predictions(file)
    named = named_splits(file, ((key, number) for key, (number, _) in predictions.items()))
    truths = read_truths(annotations, named)
    rows = compare_predictions(file, predictions, truths)
    missing = {key: truth for key, truth in truths.items() if key not in rows}
    for split, count in Counter(truth.split for truth in missing.values()).items():
        sys.stderr.write(f"{split}: {count:,} expressions without a prediction, counted as misses\n")
    scores = score([*rows.values(), *(compare(truth, None) for truth in missing.values())])
    sys.stdout.write(referring_table(scores) + "\n")
    if out:
        out.write_text(json.dumps(scores, indent=1) + "\n")


def read_predictions(file: Path) -> Predictions:
    """The lines of a file, one for each key. Raises FormatError, naming the line, where they are not."""
    lines = read_lines(file)
    check_once(file, lines)
    return {line.key: (line.number, line.record) for line in lines}


def compare_predictions(file: Path, predictions: Predictions, truths: Mapping[str, Truth]) -> dict[str, Row]:
    """Every prediction held against its truth, by key.

    Raises FormatError, naming the line, for an unknown key and for an answer that is none, and for boxes that are not
    in pixels.
    """
    rows = {}
    for key, (number, record) in predictions.items():
        try:
            if key not in truths:
                raise ValueError(f"the annotations have no expression {key!r}")
            rows[key] = compare(truths[key], _answer(record, truths[key].size))
        except ValueError as error:
            raise FormatError(f"{file}:{number}: {error}") from None
    check_pixels(file, (record["box"] for _, record in predictions.values() if record.get("box") is not None))
    return rows


def _answer(record: dict[str, Any], size: tuple[int, int] | None) -> Answer:
    box = mask = None
    if record.get("box") is not None:
        box = answered_box(record)
    if record.get("mask") is not None:
        if size is None:
            raise RecordError("a mask, while the annotations do not say how large the image is")
        empty = {"size": list(size), "counts": [size[0] * size[1]]}
        mask = any_rle(record["mask"] if record["mask"] != [] else empty, *size)
    denied = record.get("no_target")
    if denied is not None and not isinstance(denied, bool):
        raise RecordError("'no_target' is neither true nor false")
    return Answer(box, mask, denied)


def read_truths(paths: Sequence[Path], named: Mapping[str, str]) -> dict[str, Truth]:
    """The expressions of the splits that predictions name, by their keys.

    paths: folders of shards, folders of such folders, and raw annotations in any form that is prepared.
    named: as `named_splits` gives it.
    Raises ShardError or FormatError for what is none of these, for a split that they do not hold, and where two
    expressions have the same key.
    """
    truths: dict[str, Truth] = {}
    for split, size, content in read_contents(paths, named, ("referring",), open_referring, "expressions"):
        for key, truth in _truths(split, size, content):
            if key in truths:
                raise FormatError(f"the annotations have two expressions {key!r}")
            truths[key] = truth
    return truths


def _truths(split: str, size: tuple[int, int] | None, content: dict[str, Any]) -> Iterator[tuple[str, Truth]]:
    for expression in content["expressions"]:
        objects = [content["objects"][index] for index in expression["targets"]]
        boxes = [found["bbox"] for found in objects]
        mask = union([found["rle"] for found in objects], *size) if size else None
        yield f"{split}/{expression['id']}", Truth(split, expression["kind"], size, boxes, mask)
