"""The arguments of `pixel-llm caption`, `refer`, `describe` and `dense`, read and checked.

Nothing heavy is imported here: help, and what cannot work, are told at once.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from PIL import Image


def caption_options(arguments: Sequence[str]) -> argparse.Namespace:
    """Of `pixel-llm caption`; raises as `_parse` does."""
    return _parse(_parser("caption", "say what is in a photo, and where each word is"), arguments)


def refer_options(arguments: Sequence[str]) -> argparse.Namespace:
    """Of `pixel-llm refer`; raises as `_parse` does."""
    parser = _parser("refer", "find what a sentence means in a photo: its box, and its mask from a model that segments")
    parser.add_argument("queries", nargs="+", metavar="query", help='such as "the dog on the left"')
    return _parse(parser, arguments)


def describe_options(arguments: Sequence[str]) -> argparse.Namespace:
    """Of `pixel-llm describe`; raises as `_parse` does, and ValueError where nothing is asked."""
    parser = _parser("describe", "say what is in boxes of a photo, where clicks are, or what masks mark")
    parser.add_argument(
        "--box", nargs=4, type=float, action="append", default=[], metavar=("X0", "Y0", "X1", "Y1"),
        help="left, top, right and bottom in pixels of the photo; may be repeated, each box gets an answer",
    )  # fmt: skip
    parser.add_argument(
        "--point", nargs=2, type=float, action="append", default=[], metavar=("X", "Y"),
        help="a click in pixels of the photo; several click on the same thing and get one answer",
    )  # fmt: skip
    parser.add_argument(
        "--mask", type=Path, action="append", default=[], metavar="FILE",
        help="a picture of the photo's size, white where the region is and black elsewhere, for a single transformer; "
        "may be repeated",
    )  # fmt: skip
    options = _parse(parser, arguments)
    if not options.box and not options.point and not options.mask:
        asked = "give a --box X0 Y0 X1 Y1 or a --point X Y in pixels of the photo, or a --mask FILE"
        raise ValueError(f"nothing is asked: {asked}")
    for file in options.mask:
        _check_file(file)
    return options


def dense_options(arguments: Sequence[str]) -> argparse.Namespace:
    """Of `pixel-llm dense`; raises as `_parse` does, and ValueError for a threshold that is no score."""
    parser = _parser("dense", "find the objects of a photo and say what each is")
    parser.add_argument("--threshold", type=float, default=0.3, help="lowest score of an object, in [0, 1] (0.3)")
    options = _parse(parser, arguments)
    if not 0 <= options.threshold <= 1:
        raise ValueError(f"--threshold {options.threshold:g}: not in [0, 1]")
    return options


def _parser(verb: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"pixel-llm {verb}", description=description)
    parser.add_argument("image", type=Path, help="the photo")
    parser.add_argument("--checkpoint", type=Path, required=True, help="a .ckpt file or the folder of a run")
    parser.add_argument("--out", type=Path, help="picture to write, with the answer drawn over the photo")
    parser.add_argument("--json", type=Path, help="file for the answer; boxes and masks are in the photo's pixels")
    parser.add_argument("--device", help="such as cpu or cuda:1 (a GPU if there is one)")
    return parser


def _parse(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """The options; FileNotFoundError, ValueError for files that are not there or cannot be written."""
    options = parser.parse_args(arguments)
    for file in (options.out, options.json):
        if file and not file.parent.is_dir():
            raise FileNotFoundError(f"{file}: there is no folder {file.parent}")
        if file and file.is_dir():
            raise ValueError(f"{file}: a folder, give a file to write")
    if options.out and options.out.suffix.lower() not in Image.registered_extensions():
        raise ValueError(f"{options.out}: no kind of picture that can be written (.png and .jpg are)")
    _check_file(options.image)
    if not options.checkpoint.exists():
        raise FileNotFoundError(f"no checkpoint at {options.checkpoint}")
    return options


def _check_file(file: Path) -> None:
    if file.is_dir():
        raise ValueError(f"{file}: a folder, give a file")
    if not file.is_file():
        raise FileNotFoundError(f"no such file: {file}")
