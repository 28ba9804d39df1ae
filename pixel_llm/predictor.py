"""What a person calls: a trained model on a photo."""

import logging
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from jsonargparse import ArgumentParser, set_parsing_settings

from datamodules.referring import query_context, query_tokens
from datamodules.samples import Question, Sample, collate
from datamodules.tokenizer import Tokenizer
from datamodules.views import decode_jpeg, whole_view
from pixel_llm.structures import Batch, Prediction, Reference, ReferringPrediction
from pixel_llm.tasks.base import Task
from pixel_llm.tasks.captioning import Captioning
from pixel_llm.tasks.referring_localization import ReferringLocalization
from pixel_llm.tasks.words import predictions
from pixel_llm.weights.checkpoint import find_checkpoint, read_checkpoint
from pixel_llm.weights.tensors import load_tensors

AnyTask = TypeVar("AnyTask", bound=Task)

log = logging.getLogger(__name__)


class Predictor:
    """A model from one checkpoint file of ours, which carries configuration, tokenizer and weights.

    checkpoint: the file, or a run's folder with `checkpoints/last.ckpt` somewhere below.
    Raises FileNotFoundError, and ValueError with one line for a file that is no checkpoint of ours or a device that
    this machine lacks. So does a method that asks for something the checkpoint's task does not do, or about a file
    that is no image.
    """

    def __init__(self, checkpoint: str | Path, device: str | torch.device = "cpu") -> None:
        self.device = usable_device(device)
        self.path = find_checkpoint(Path(checkpoint))
        content = read_checkpoint(self.path)
        config = yaml.safe_load(content["config"])
        self.task = build_task(config["model"])
        tokenizer = next((v["tokenizer"] for v in content.values() if isinstance(v, dict) and "tokenizer" in v), None)
        if tokenizer is None:
            raise ValueError(f"{self.path}: holds no tokenizer")
        self.tokenizer = Tokenizer.from_json(tokenizer)
        self.data: dict[str, Any] = _data_settings(config["data"])
        load_tensors(self.task, content["state_dict"], str(self.path))
        self.task.eval().to(self.device)

    @torch.no_grad()
    def caption(self, image: bytes, name: str = "image") -> Prediction:
        """Say what is in an image (the bytes of its file), with the place of every word in its pixels."""
        task = self._task(Captioning, "write captions")
        context = self.tokenizer.context(self.data["prompts"][0], self.data["max_context_tokens"])
        batch = self._batch(image, name, [Question(Reference(name, ""), context=context)])
        generation = task.core.generate(task.encode(batch), batch.prompts, task.rule)
        index = batch.prompts.image_index
        return predictions(generation, [name], index, batch.original_sizes, self.tokenizer)[0]

    @torch.no_grad()
    def refer(self, image: bytes, queries: str | Sequence[str], name: str = "image") -> list[ReferringPrediction]:
        """Find what each query names in an image (the bytes of its file): a box, and a mask from a model that segments.

        All queries share one encoding of the image. Raises ValueError with one line for an empty query, too; what
        the model cannot read of a query is logged.
        """
        task = self._task(ReferringLocalization, "regress the boxes of queries")
        asked = [queries] if isinstance(queries, str) else queries
        questions = [self._ask(query, f"{name}/{i}") for i, query in enumerate(asked, 1)]
        if not questions:
            return []
        batch = self._batch(image, name, questions)
        return task.answer(task.encode(batch), batch)

    def _task(self, kind: type[AnyTask], ability: str) -> AnyTask:
        if not isinstance(self.task, kind):
            raise ValueError(f"{self.path}: a model of {type(self.task).__name__} does not {ability}")
        return self.task

    def _ask(self, query: str, key: str) -> Question:
        query = query.strip()
        if not query:
            raise ValueError(f"query {key} is empty")
        length, limit = len(self.tokenizer.encode(query)[0]), self.data["max_tokens"] - 2
        tokens = query_tokens(self.tokenizer, query, self.data["max_tokens"])
        shown = textwrap.shorten(query, 60, placeholder=" ...")
        if length > limit:
            log.warning("query %r has %d tokens: only the first %d are read", shown, length, limit)
        if not self.tokenizer.decode(tokens)[0].strip():
            log.warning("query %r has no word that the model's tokenizer knows: its answer means nothing", shown)
        settings = (self.data["context_prompt"], self.data["max_context_tokens"])
        return Question(Reference(key, query), tokens, context=query_context(self.tokenizer, query, *settings))

    def _batch(self, image: bytes, name: str, questions: list[Question]) -> Batch:
        pixels = decode_jpeg(image, name)
        view = whole_view(pixels, self.data["image_size"], (pixels.shape[-2], pixels.shape[-1]))
        return collate([Sample(name, view, questions)], self.data["image_size"], self.tokenizer.pad_id).to(self.device)


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
