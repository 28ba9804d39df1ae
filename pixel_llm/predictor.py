"""What a person calls: a trained model on a photo."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import yaml
from jsonargparse import ArgumentParser, set_parsing_settings
from numpy.typing import NDArray
from torch import Tensor

from datamodules.chat_text import ChatText
from datamodules.referring import query_context, query_tokens
from datamodules.region_marks import filled_box
from datamodules.samples import Question, Sample, collate
from datamodules.tokenizer import Tokenizer
from datamodules.views import View, decode_jpeg, whole_view
from pixel_llm.asked_dialogues import clicks_mark, describing, mask_mark, segmenting
from pixel_llm.asked_places import Click, checked_box, checked_clicks, checked_mask, click_shares, spanned
from pixel_llm.asked_queries import shown, tell_unknown
from pixel_llm.coordinates import Box, box_original_px_to_01
from pixel_llm.run_lengths import encoded, mask_box
from pixel_llm.structures import Batch, Prediction, Reference, ReferringPrediction, RegionPrediction
from pixel_llm.tasks.base import Task
from pixel_llm.tasks.captioning import Captioning
from pixel_llm.tasks.dense_captioning import DenseCaptioning
from pixel_llm.tasks.dialogue_answers import DescribedRegions, SegmentedAnswers
from pixel_llm.tasks.joint import JointTraining
from pixel_llm.tasks.pixel_sail import Dialogues
from pixel_llm.tasks.referring_localization import ReferringLocalization
from pixel_llm.tasks.region_captions import RegionTask
from pixel_llm.tasks.words import predictions
from pixel_llm.weights.checkpoint import find_checkpoint, read_checkpoint, tokenizer_of
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
        self.task = restored_task(config["model"], content["state_dict"], self.path)
        self.tokenizer = Tokenizer.from_json(tokenizer_of(content, self.path))
        self._sources = _data_settings(config["data"])
        self.data: dict[str, Any] = next(iter(self._sources.values()))
        self.task.tokenizer = self.tokenizer
        if isinstance(self.task, Dialogues):
            self.task.chat = ChatText(self.tokenizer, self.task.core.special.visual_prompts)
        self.task.eval().to(self.device)

    @torch.no_grad()
    def caption(self, image: bytes, name: str = "image") -> Prediction:
        """Say what is in an image (the bytes of its file), with the place of every word in its pixels."""
        task = self._task(Captioning, "write captions", "trace")
        data = self._settings("LocalizedNarrativesDataModule")
        context = self.tokenizer.context(data["prompts"][0], data["max_context_tokens"])
        batch = self._batch(self._view(image, name), name, [Question(Reference(name, ""), context=context)])
        generation = task.core.generate(task.encode(batch), batch.prompts, task.rule)
        index = batch.prompts.image_index
        return predictions(generation, [name], index, batch.original_sizes, self.tokenizer)[0]

    @torch.no_grad()
    def refer(self, image: bytes, queries: str | Sequence[str], name: str = "image") -> list[ReferringPrediction]:
        """Find what each query names in an image (the bytes of its file): a box, and a mask from a model that segments.

        All queries share one encoding of the image. Raises ValueError with one line for an empty query, too; what
        the model cannot read of a query is logged.
        """
        asked = [queries] if isinstance(queries, str) else queries
        if isinstance(self.task, Dialogues):
            return self._segment(self.task, self._view(image, name), asked, name)
        task = self._task(ReferringLocalization, "find what queries name", "referring", "pixel_sail")
        questions = [self._ask(query, f"{name}/{i}") for i, query in enumerate(asked, 1)]
        if not questions:
            return []
        batch = self._batch(self._view(image, name), name, questions)
        return task.answer(task.encode(batch), batch)

    @torch.no_grad()
    def describe(
        self,
        image: bytes,
        boxes: Sequence[Sequence[float]] = (),
        points: Sequence[Sequence[float]] = (),
        name: str = "image",
        masks: Sequence[NDArray[np.bool_]] = (),
    ) -> list[RegionPrediction]:
        """Say what is in each box of an image (the bytes of its file), then what lies where the clicks are, then
        what each mask covers.

        boxes: x0 y0 x1 y1 in pixels of the photo.  points: clicks xy on one thing, which get one answer for all of
        them, whose box is the one that they span.  masks: bool[H, W] over the photo, for a single transformer.
        Raises ValueError with one line for boxes, clicks and masks that cannot be meant, see `asked_places`.
        """
        view = self._view(image, name)
        size = view.original_size
        places, clicks = [checked_box(box, size) for box in boxes], checked_clicks(points, size)
        masks = [checked_mask(mask, size, f"mask {number}") for number, mask in enumerate(masks, 1)]
        if isinstance(self.task, Dialogues):
            return self._describe_marked(self.task, view, places, clicks, masks, name)
        task = self._task(RegionTask, "caption regions", "region_captioning", "pixel_sail")
        if masks:
            raise ValueError(f"{self.path}: of a model that is asked by boxes or clicks, not by masks")
        kinds = [[self._place(box_original_px_to_01(box, size)) for box in places]]  # a batch has prompts of one kind
        if clicks:
            places.append(spanned(clicks))
            kinds.append([self._place(box_original_px_to_01(places[-1], size), click_shares(clicks, size))])
        batches = [self._batch(view, name, questions) for questions in kinds if questions]
        if not batches:
            return []
        features = task.encode(batches[0])
        said: list[tuple[str, float]] = []
        for batch in batches:
            captions, scores = task.write(features, batch.prompts)
            said += zip(captions, scores.tolist(), strict=True)
        answers = enumerate(zip(places, said, strict=True), 1)
        return [RegionPrediction(f"{name}/{i}", box, *caption) for i, (box, caption) in answers]

    @torch.no_grad()
    def dense_caption(self, image: bytes, name: str = "image") -> list[RegionPrediction]:
        """Find the objects of an image (the bytes of its file) and say what each is, the surest first."""
        task = self._task(DenseCaptioning, "find objects", "dense_captioning")
        nowhere = self._place((0.0, 0.0, 0.0, 0.0))  # for the prompt's text
        nowhere.reference.image = name
        batch = self._batch(self._view(image, name), name, [nowhere])
        return task.answer(task.encode(batch), batch)

    def _task(self, kind: type[AnyTask], ability: str, *configs: str) -> AnyTask:
        """The checkpoint's task, of a joint training the one of this kind.

        configs: folders of those that train it. Raises ValueError, naming them, for a checkpoint of another task.
        """
        tasks = self.task.tasks.values() if isinstance(self.task, JointTraining) else [self.task]
        found = next((task for task in tasks if isinstance(task, kind)), None)
        if found is None:
            advice = f"{' or '.join(f'configs/{folder}/' for folder in configs)} trains one that does"
            raise ValueError(f"{self.path}: a model of {type(self.task).__name__} does not {ability}: {advice}")
        return found

    def _settings(self, kind: str) -> dict[str, Any]:
        """The arguments of a class of data module that took part in the training, else those of the first one."""
        return self._sources.get(kind, self.data)

    def _segment(
        self, task: Dialogues, view: View, queries: Sequence[str], name: str
    ) -> list[ReferringPrediction]:
        length = self._settings("ReferringDialoguesDataModule")["max_context_tokens"]
        questions = [segmenting(task.chat, query, f"{name}/{i}", length) for i, query in enumerate(queries, 1)]
        return task.answer(self._batch(view, name, questions), SegmentedAnswers()) if questions else []

    def _describe_marked(
        self,
        task: Dialogues,
        view: View,
        boxes: Sequence[Box],
        clicks: Sequence[Click],
        masks: Sequence[NDArray[np.bool_]],
        name: str,
    ) -> list[RegionPrediction]:
        size, shape = view.original_size, (view.pixels.shape[-2], view.pixels.shape[-1])
        marks = [filled_box(box_original_px_to_01(box, size), shape) for box in boxes]
        places = list(boxes)
        if clicks:
            marks.append(clicks_mark(click_shares(clicks, size), view))
            places.append(spanned(clicks))
        rles = [encoded(mask) for mask in masks]
        marks += [mask_mark(rle, view) for rle in rles]
        places += [mask_box(rle) for rle in rles]
        length = self._settings("RegionDialoguesDataModule")["max_context_tokens"]
        questions = describing(task.chat, marks, name, length)
        if not questions:
            return []
        batch = self._collated([Sample(name, view, [question]) for question in questions])
        answers = task.answer(batch, DescribedRegions())
        return [replace(answer, box=place) for answer, place in zip(answers, places, strict=True)]

    def _ask(self, query: str, key: str) -> Question:
        query = query.strip()
        if not query:
            raise ValueError(f"query {key} is empty")
        data = self._settings("ReferringDataModule")
        length, limit = len(self.tokenizer.encode(query)[0]), data["max_tokens"] - 2
        tokens = query_tokens(self.tokenizer, query, data["max_tokens"])
        if length > limit:
            log.warning("query %r has %d tokens: only the first %d are read", shown(query), length, limit)
        tell_unknown(query, tokens, self.tokenizer)
        settings = (data["context_prompt"], data["max_context_tokens"])
        return Question(Reference(key, query), tokens, context=query_context(self.tokenizer, query, *settings))

    def _place(self, box: Box, clicks: Sequence[Click] = ()) -> Question:
        """box: x0 y0 x1 y1, clicks: xy, in [0, 1]."""
        data = self._settings("RegionsDataModule")
        context = query_context(self.tokenizer, "", data["context_prompt"], data["max_context_tokens"])
        points = [(x, y, 1) for x, y in clicks]
        return Question(Reference("", ""), context=context, prompt_box=box, points=points)

    def _view(self, image: bytes, name: str) -> View:
        pixels = decode_jpeg(image, name)
        return whole_view(pixels, self.data["image_size"], (pixels.shape[-2], pixels.shape[-1]))

    def _batch(self, view: View, name: str, questions: list[Question]) -> Batch:
        return self._collated([Sample(name, view, questions)])

    def _collated(self, samples: list[Sample]) -> Batch:
        return collate(samples, self.data["image_size"], self.tokenizer.pad_id).to(self.device)


def usable_device(name: str | torch.device) -> torch.device:
    """ValueError with one line for a device that this machine lacks, or that is none."""
    try:
        return torch.zeros(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # AssertionError: a build of torch without this kind
        raise ValueError(f"device {name}: {str(error).splitlines()[0]}") from None


def restored_task(config: dict[str, Any], weights: Mapping[str, Tensor], path: Path) -> Task:
    """The task that a checkpoint's `model` section describes, with its weights.

    ValueError, naming the checkpoint's path, where they do not fit.
    """
    task = build_task(config)
    load_tensors(task, task.without_training_parts(weights), str(path))
    return task


def build_task(config: dict[str, Any]) -> Task:
    """The task that a configuration's `model` section describes, untrained; it may name classes of ours only."""
    set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=["pixel_llm"])
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Task, "model")
    return parser.instantiate(parser.parse_object({"model": config})).model


def _data_settings(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The arguments of each class of data module in a data section, in order; of several of a class the first one's."""
    settings: dict[str, dict[str, Any]] = {}
    for source in config["init_args"].get("sources", [config]):
        settings.setdefault(source["class_path"].rpartition(".")[2], source["init_args"])
    return settings
