"""What a person calls: a trained model on a photo."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from jsonargparse import ArgumentParser, set_parsing_settings
from numpy.typing import NDArray

from datamodules.samples import Question, Sample, collate
from datamodules.tokenizer import Tokenizer
from datamodules.views import decode_jpeg, whole_view
from pixel_llm.drawing import Panel, draw_traces
from pixel_llm.structures import Batch, Prediction, Reference
from pixel_llm.tasks.base import Task
from pixel_llm.tasks.captioning import Captioning
from pixel_llm.tasks.words import predictions
from pixel_llm.weights.checkpoint import find_checkpoint, read_checkpoint
from pixel_llm.weights.tensors import load_tensors


class Predictor:
    """A model from one checkpoint file of ours, which carries configuration, tokenizer and weights.

    checkpoint: the file, or a run's folder with `checkpoints/last.ckpt` somewhere below.
    Raises FileNotFoundError, and ValueError with one line for a file that is no checkpoint of ours or a device that
    this machine lacks.
    """

    def __init__(self, checkpoint: str | Path, device: str | torch.device = "cpu") -> None:
        self.device = usable_device(device)
        path = find_checkpoint(Path(checkpoint))
        content = read_checkpoint(path)
        config = yaml.safe_load(content["config"])
        task = build_task(config["model"])
        if not isinstance(task, Captioning):
            raise ValueError(f"{path}: a model of {type(task).__name__} does not write captions")
        self.task = task
        tokenizer = next((v["tokenizer"] for v in content.values() if isinstance(v, dict) and "tokenizer" in v), None)
        if tokenizer is None:
            raise ValueError(f"{path}: holds no tokenizer")
        self.tokenizer = Tokenizer.from_json(tokenizer)
        self.data: dict[str, Any] = _data_settings(config["data"])
        load_tensors(self.task, content["state_dict"], str(path))
        self.task.eval().to(self.device)

    @torch.no_grad()
    def caption(self, image: bytes, name: str = "image") -> Prediction:
        """Say what is in an image (the bytes of its file), with the place of every word in its pixels."""
        batch = self._batch(image, name)
        features = self.task.core.encode_images(batch.images, batch.sizes)
        generation = self.task.core.generate(features, batch.prompts, self.task.rule)
        index = batch.prompts.image_index
        return predictions(generation, [name], index, batch.original_sizes, self.tokenizer)[0]

    def _batch(self, image: bytes, name: str) -> Batch:
        pixels = decode_jpeg(image, name)
        view = whole_view(pixels, self.data["image_size"], (pixels.shape[-2], pixels.shape[-1]))
        context = self.tokenizer.context(self.data["prompts"][0], self.data["max_context_tokens"])
        question = Question(Reference(name, ""), context=context)
        batch = collate([Sample(name, view, [question])], self.data["image_size"], self.tokenizer.pad_id)
        return batch.to(self.device)


def usable_device(name: str | torch.device) -> torch.device:
    """ValueError with one line for a device that this machine lacks, or that is none."""
    try:
        return torch.zeros(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # AssertionError: a build of torch without this kind
        raise ValueError(f"device {name}: {str(error).splitlines()[0]}") from None


def build_task(config: dict[str, Any]) -> Task:
    """The task that a configuration's `model` section describes, untrained; it may name classes of ours only."""
    set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=["pixel_llm"])
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Task, "model")
    return parser.instantiate(parser.parse_object({"model": config})).model


def _data_settings(config: dict[str, Any]) -> dict[str, Any]:
    """The arguments of the data module, of a mixture those of its first source."""
    settings = config["init_args"]
    return _data_settings(settings["sources"][0]) if "sources" in settings else settings


def caption_command(arguments: Sequence[str]) -> None:
    """`pixel-llm caption`."""
    parser = argparse.ArgumentParser(
        prog="pixel-llm caption", description="say what is in a photo, and where each word is"
    )
    parser.add_argument("image", type=Path)
    parser.add_argument("--checkpoint", required=True, help="a .ckpt file or the folder of a run")
    parser.add_argument("--out", type=Path, help="picture to write, with caption and trace")
    parser.add_argument("--json", type=Path, help="file for the words with their boxes in pixels")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    data = options.image.read_bytes()
    prediction = Predictor(options.checkpoint, options.device).caption(data, options.image.name)
    sys.stdout.write(prediction.caption + "\n")
    if options.json:
        options.json.write_text(json.dumps(asdict(prediction), ensure_ascii=False, indent=1) + "\n")
    if options.out:
        pixels: NDArray[np.uint8] = decode_jpeg(data, options.image.name).permute(1, 2, 0).numpy()
        draw_traces(pixels, [Panel(options.image.name, prediction.words)]).save(options.out)
        sys.stdout.write(f"picture: {options.out}\n")
