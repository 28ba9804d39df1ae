"""The commands `pixel-llm caption`, `refer`, `describe` and `dense`: a trained model asked about one photo."""

import argparse
import json
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from datamodules.views import decode_jpeg
from pixel_llm.drawing.captioned_boxes import CaptionedBox, View, draw_captioned_boxes
from pixel_llm.drawing.regions import draw_regions
from pixel_llm.drawing.traces import Trace, draw_traces
from pixel_llm.predictor import Predictor
from pixel_llm.structures import ReferringPrediction, RegionPrediction


def caption(arguments: Sequence[str]) -> None:
    """`pixel-llm caption`."""
    parser = _parser("caption", "say what is in a photo, and where each word is")
    options = _parse(parser, arguments)
    data, name = options.image.read_bytes(), options.image.name
    prediction = Predictor(options.checkpoint, options.device).caption(data, name)
    sys.stdout.write(prediction.caption + "\n")
    _write_json(asdict(prediction), options.json)
    if options.out:
        _save(draw_traces(_pixels(data, name), [Trace(name, prediction.words)]), options.out)


def refer(arguments: Sequence[str]) -> None:
    """`pixel-llm refer`."""
    parser = _parser("refer", "find what a sentence means in a photo: its box, and its mask from a model that segments")
    parser.add_argument("queries", nargs="+", metavar="query", help='such as "the dog on the left"')
    options = _parse(parser, arguments)
    data, name = options.image.read_bytes(), options.image.name
    found = Predictor(options.checkpoint, options.device).refer(data, options.queries, name)
    sys.stdout.write("".join(f"{_line(answer)}\n" for answer in found))
    _write_json([asdict(answer) for answer in found], options.json)
    if options.out:
        pixels = _pixels(data, name)
        size = (pixels.shape[0], pixels.shape[1])
        _save(draw_regions(pixels, size, found, [None] * len(found)), options.out)


def describe(arguments: Sequence[str]) -> None:
    """`pixel-llm describe`."""
    parser = _parser("describe", "say what is in boxes of a photo, or where clicks are")
    parser.add_argument(
        "--box", nargs=4, type=float, action="append", default=[], metavar=("X0", "Y0", "X1", "Y1"),
        help="left, top, right and bottom in pixels of the photo; may be repeated, each box gets an answer",
    )  # fmt: skip
    parser.add_argument(
        "--point", nargs=2, type=float, action="append", default=[], metavar=("X", "Y"),
        help="a click in pixels of the photo; several click on the same thing and get one answer",
    )  # fmt: skip
    options = _parse(parser, arguments)
    if not options.box and not options.point:
        raise ValueError("nothing is asked: give a --box X0 Y0 X1 Y1 or a --point X Y in pixels of the photo")
    data, name = options.image.read_bytes(), options.image.name
    said = Predictor(options.checkpoint, options.device).describe(data, options.box, options.point, name)
    clicks = [[]] * len(options.box) + [options.point] * bool(options.point)
    boxes = [
        CaptionedBox(number, answer.box, answer.caption, clicks=at)
        for number, (answer, at) in enumerate(zip(said, clicks, strict=True), 1)
    ]
    sys.stdout.write("".join(f"{_place(box)}: {box.caption}\n" for box in boxes))
    _write_json([asdict(answer) for answer in said], options.json)
    _draw_boxes(data, name, View(name, boxes), options.out)


def dense(arguments: Sequence[str]) -> None:
    """`pixel-llm dense`."""
    parser = _parser("dense", "find the objects of a photo and say what each is")
    parser.add_argument("--threshold", type=float, default=0.3, help="lowest score of an object, in [0, 1] (0.3)")
    options = _parse(parser, arguments)
    if not 0 <= options.threshold <= 1:
        raise ValueError(f"--threshold {options.threshold:g}: not in [0, 1]")
    data, name = options.image.read_bytes(), options.image.name
    found = Predictor(options.checkpoint, options.device).dense_caption(data, name)
    kept = sorted((f for f in found if f.score >= options.threshold), key=lambda f: -f.score)
    boxes = [CaptionedBox(number, f.box, f.caption, f"{f.score:.2f}") for number, f in enumerate(kept, 1)]
    sys.stdout.write("".join(f"{box.note}  {_place(box)}: {box.caption}\n" for box in boxes))
    if not boxes:
        sys.stdout.write(f"{_nothing(found, options.threshold)}\n")
    _write_json([asdict(answer) for answer in kept], options.json)
    objects = "1 object" if len(boxes) == 1 else f"{len(boxes)} objects"
    _draw_boxes(data, name, View(f"{name}: {objects} of score {options.threshold:g} or more", boxes), options.out)


def _parser(verb: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"pixel-llm {verb}", description=description)
    parser.add_argument("image", type=Path)
    parser.add_argument("--checkpoint", required=True, help="a .ckpt file or the folder of a run")
    parser.add_argument("--out", type=Path, help="picture to write, with the answer drawn over the photo")
    parser.add_argument("--json", type=Path, help="file for the answer; boxes are in pixels of the photo")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser


def _parse(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """The options; what cannot be written is refused before a model is loaded. Raises FileNotFoundError, ValueError."""
    options = parser.parse_args(arguments)
    for file in (options.out, options.json):
        if file and not file.parent.is_dir():
            raise FileNotFoundError(f"{file}: there is no folder {file.parent}")
    if options.out and options.out.suffix.lower() not in Image.registered_extensions():
        raise ValueError(f"{options.out}: no kind of picture that can be written (.png and .jpg are)")
    return options


def _line(answer: ReferringPrediction) -> str:
    """One line for a person, of a long query only the beginning."""
    query = textwrap.shorten(answer.query, 80, placeholder=" ...")
    line = f"{query}: box {' '.join(f'{value:.1f}' for value in answer.box)}"
    if answer.mask:
        line += f", mask of {int(coco_mask.area(answer.mask))} pixels"
    return line if answer.score is None else f"{line}, expected IoU {answer.score:.2f}"


def _place(box: CaptionedBox) -> str:
    """Where something was asked or found, for a person."""
    if box.clicks:
        return f"point {', '.join(f'{x:.1f} {y:.1f}' for x, y in box.clicks)}"
    return f"box {' '.join(f'{value:.1f}' for value in box.box)}"


def _nothing(found: Sequence[RegionPrediction], threshold: float) -> str:
    surest = max((f.score for f in found), default=None)
    best = "none was found at all" if surest is None else f"the surest has {surest:.4g}: try a lower --threshold"
    return f"no object of score {threshold:g} or more; {best}"


def _draw_boxes(data: bytes, name: str, view: View, out: Path | None) -> None:
    if out:
        pixels = _pixels(data, name)
        _save(draw_captioned_boxes(pixels, (pixels.shape[0], pixels.shape[1]), [view]), out)


def _pixels(data: bytes, name: str) -> NDArray[np.uint8]:
    return decode_jpeg(data, name).permute(1, 2, 0).numpy()


def _write_json(content: Any, file: Path | None) -> None:
    if file:
        file.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n")


def _save(picture: Image.Image, file: Path) -> None:
    picture.save(file)
    sys.stdout.write(f"picture: {file}\n")
