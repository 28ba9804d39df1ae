"""The commands `pixel-llm caption` and `pixel-llm refer`: a trained model asked about one photo."""

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
from pixel_llm.drawing.regions import draw_regions
from pixel_llm.drawing.traces import Trace, draw_traces
from pixel_llm.predictor import Predictor
from pixel_llm.structures import ReferringPrediction


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


def _pixels(data: bytes, name: str) -> NDArray[np.uint8]:
    return decode_jpeg(data, name).permute(1, 2, 0).numpy()


def _write_json(content: Any, file: Path | None) -> None:
    if file:
        file.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n")


def _save(picture: Image.Image, file: Path) -> None:
    picture.save(file)
    sys.stdout.write(f"picture: {file}\n")
