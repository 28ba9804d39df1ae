"""`pixel-llm prepare features`: what frozen image encoders make of a configuration's images, computed once.

Those of a PixelLLM are its SAM encoder, those of a Pixel-SAIL its teachers. Each has a cache of its own.
"""

import argparse
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datamodules.base import ShardDataModule
from datamodules.features import Producer
from datamodules.mixture import MixtureDataModule
from datamodules.prepare.command import OneLineParser, add_part, asked_part, progress_bar
from datamodules.prepare.features import Pictures, write_features
from datamodules.prepare.progress import Part
from pixel_llm.core.image_encoder import ImageEncoder
from pixel_llm.early_checks import missing_data
from pixel_llm.tasks.base import Task
from pixel_llm.trainer_cli import PixelLLMCLI, silence
from pixel_llm.weights.frozen_encoder import encoder_fingerprint

SPLITS = ("train", "val", "test")


class ConfiguredParts(PixelLLMCLI):
    """Model and data of a training configuration, without its trainer."""

    def __init__(self, arguments: Sequence[str]) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "LightningCLI's args parameter")
            super().__init__(args=list(arguments), run=False)

    def before_instantiate_classes(self) -> None:
        data = self.config.as_dict().get("data") or {}
        if missing := list(dict.fromkeys(missing_data(data, SPLITS, features=False))):
            raise FileNotFoundError("; ".join(missing))

    def instantiate_classes(self) -> None:
        del self.config["trainer"]  # it is for the machines of the training
        made = self.parser.instantiate_classes(self.config)
        self.model, self.datamodule = made.model, made.data


def main(arguments: Sequence[str]) -> None:
    parser = _parser()
    options, changes = parser.parse_known_args(arguments)
    part = asked_part(parser, options.part, options.of)
    silence()
    parts = ConfiguredParts([*(f"--config={file}" for file in options.config), *changes])
    task, data = parts.model, parts.datamodule
    if not isinstance(data, ShardDataModule | MixtureDataModule) or not isinstance(task, Task):
        raise ValueError("--config: not a training on images")
    sources: list[ShardDataModule] = getattr(data, "sources", [data])
    for source in sources:
        source.check_fixed_view()
    encoders = _chosen(task.frozen_encoders(), options.encoder)
    parts_of_core = set(task.core.modules())
    if task.weights is not None and any(encoder in parts_of_core for encoder in encoders.values()):
        task.weights.load(task.core)
    shards = {shard.address: shard for source in sources for split in _splits(source) for shard in source.shards(split)}
    for name, encoder in encoders.items():
        pictures = Pictures.of(list(shards.values()), data.image_size)
        producer = partial(Producer, name, encoder_fingerprint(encoder), data.image_size)
        loading = {"batch_size": data.batch_size, "workers": data.num_workers}
        _write(encoder, producer, pictures, options.out / name, part, **loading)
    sys.stdout.write(f"features in {options.out}\n")


def _chosen(encoders: dict[str, ImageEncoder], names: list[str] | None) -> dict[str, ImageEncoder]:
    """Those of these names, or all. Raises ValueError with one line for none."""
    if not encoders:
        raise ValueError("--config: this training has no frozen encoder whose features could be computed beforehand")
    if missing := sorted(set(names or ()) - encoders.keys()):
        raise ValueError(f"--encoder {missing[0]}: this training has {', '.join(encoders)}")
    return {name: encoder for name, encoder in encoders.items() if not names or name in names}


def _splits(source: ShardDataModule) -> Sequence[str]:
    return SPLITS if source.evaluated_with_features else SPLITS[:1]


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="pixel-llm prepare features",
        description="What the frozen image encoders of a training configuration (a PixelLLM's SAM encoder, or a "
        "Pixel-SAIL's teachers) make of its images, computed once. Further options change the configuration as those "
        "of `lightning fit` do.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="append", required=True, metavar="FILE", help="of a training; repeatable")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of features to add to")
    parser.add_argument("--encoder", action="append", metavar="NAME", help="this one only; repeatable (default: all)")
    add_part(parser, "encode the I-th share of the images only, counted from 0; all parts may run at once")
    return parser


def _write(
    encoder: ImageEncoder, producer: Callable[..., Producer], pictures: Pictures, out: Path, part: Part, **loading: int
) -> None:
    """producer: called with the shape of a map."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    encoder.eval().to(device)

    @torch.no_grad()
    def encode(images: Tensor, sizes: Tensor) -> Tensor:
        return encoder(images.to(device), sizes.to(device))

    side = pictures.canvas
    shape = encode(torch.zeros(1, 3, side, side), torch.full((1, 2), side)).shape[1:]
    with progress_bar() as bar:

        def track(items: Iterable[Any], total: int, description: str) -> Iterable[Any]:
            return bar.track(items, total=total, description=description)

        share = {"part": part.number, "parts": part.of}
        report = write_features(pictures, out, producer(*shape), encode, **share, **loading, track=track)
    sys.stdout.write("\n".join([f"{out.name}:", *report.lines(), ""]))
