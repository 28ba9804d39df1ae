"""The commands `pixel-llm caption`, `refer`, `describe` and `dense`: a trained model asked about one photo.

Each takes the options that the function of its name in `photo_arguments` returns.
"""

import json
import sys
import textwrap
from argparse import Namespace
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
from pixel_llm.asked_places import read_mask
from pixel_llm.drawing.captioned_boxes import CaptionedBox, View, draw_captioned_boxes
from pixel_llm.drawing.regions import draw_regions
from pixel_llm.drawing.traces import Trace, draw_traces
from pixel_llm.predictor import Predictor
from pixel_llm.run_lengths import encoded
from pixel_llm.structures import ReferringPrediction, RegionPrediction


def caption(options: Namespace) -> None:
    """`pixel-llm caption`."""
    data, name = options.image.read_bytes(), options.image.name
    prediction = _predictor(options).caption(data, name)
    sys.stdout.write(prediction.caption + "\n")
    _write_json(asdict(prediction), options.json)
    if options.out:
        _save(draw_traces(_pixels(data, name), [Trace(name, prediction.words)]), options.out)


def refer(options: Namespace) -> None:
    """`pixel-llm refer`."""
    data, name = options.image.read_bytes(), options.image.name
    found = _predictor(options).refer(data, options.queries, name)
    sys.stdout.write("".join(f"{_line(answer)}\n" for answer in found))
    _write_json([asdict(answer) for answer in found], options.json)
    if options.out:
        pixels = _pixels(data, name)
        size = (pixels.shape[0], pixels.shape[1])
        _save(draw_regions(pixels, size, found, [None] * len(found)), options.out)


def describe(options: Namespace) -> None:
    """`pixel-llm describe`."""
    data, name = options.image.read_bytes(), options.image.name
    masks = _masks(options.mask, data, name)
    said = _predictor(options).describe(data, options.box, options.point, name, masks)
    shown: list[dict[str, Any]] = [{} for _ in options.box]
    shown += [{"clicks": options.point}] * bool(options.point) + [{"mask": encoded(mask)} for mask in masks]
    boxes = [
        CaptionedBox(number, answer.box, answer.caption, **marks)
        for number, (answer, marks) in enumerate(zip(said, shown, strict=True), 1)
    ]
    places = [*map(_place, boxes[: len(boxes) - len(masks)]), *(f"mask {file}" for file in options.mask)]
    sys.stdout.write("".join(f"{place}: {box.caption}\n" for place, box in zip(places, boxes, strict=True)))
    _write_json([asdict(answer) for answer in said], options.json)
    _draw_boxes(data, name, View(name, boxes), options.out)


def dense(options: Namespace) -> None:
    """`pixel-llm dense`."""
    data, name = options.image.read_bytes(), options.image.name
    found = _predictor(options).dense_caption(data, name)
    kept = sorted((f for f in found if f.score >= options.threshold), key=lambda f: -f.score)
    boxes = [CaptionedBox(number, f.box, f.caption, f"{f.score:.2f}") for number, f in enumerate(kept, 1)]
    sys.stdout.write("".join(f"{box.note}  {_place(box)}: {box.caption}\n" for box in boxes))
    if not boxes:
        sys.stdout.write(f"{_nothing(found, options.threshold)}\n")
    _write_json([asdict(answer) for answer in kept], options.json)
    objects = "1 object" if len(boxes) == 1 else f"{len(boxes)} objects"
    _draw_boxes(data, name, View(f"{name}: {objects} of score {options.threshold:g} or more", boxes), options.out)


def _predictor(options: Namespace) -> Predictor:
    return Predictor(options.checkpoint, options.device or ("cuda" if torch.cuda.is_available() else "cpu"))


def _masks(files: Sequence[Path], data: bytes, name: str) -> list[NDArray[np.bool_]]:
    """Each bool[H, W], of the photo's size."""
    if not files:  # a large photo takes a while to decode
        return []
    height, width = decode_jpeg(data, name).shape[-2:]
    return [read_mask(file, (height, width)) for file in files]


def _line(answer: ReferringPrediction) -> str:
    """One line for a person, of a long query or answer only the beginning."""
    query = textwrap.shorten(answer.query, 80, placeholder=" ...")
    if answer.answer is not None and answer.mask and not coco_mask.area(answer.mask):
        return f"{query}: nothing found, the answer was {textwrap.shorten(answer.answer, 80, placeholder=' ...')!r}"
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
