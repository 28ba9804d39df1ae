"""Batches of stated shapes in place of data: as they usually are, and as large as a configuration lets them be."""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datamodules.shard_index import open_shards
from pixel_llm.pixel_sail.pixel_sail import PixelSail
from pixel_llm.structures import Batch, Prompts, Reference, Targets, VisualPrompts
from pixel_llm.tasks.base import Task

_SENTENCE, _NARRATIVE, _CAPTION, _EXPRESSION, _PHRASE, _INSTRUCTION = 51, 128, 21, 12, 12, 12  # tokens
_EXPRESSIONS, _REGIONS, _TURNS, _OBJECTS = 8, 73, 5, 8  # of an image
_ANSWER, _FORM = 128, 8  # tokens of a turn's answer, and of the words around an expression or a phrase in a dialogue


@dataclass(frozen=True)
class Shape:
    """What a training image brings along.

    prompts: of an image.  tokens: of an answer, padded.  context: of a prompt's text, padded; 0 for none.
    boxes: each prompt has a box of its own; else all ask about the whole image.
    masks: each prompt has one, by a mask token where the model has such.  labels: kinds of attributes.
    marks: regions that are marked in the image for a single transformer.
    """

    prompts: int
    tokens: int
    context: int = 0
    boxes: bool = False
    masks: bool = False
    labels: int = 0
    marks: int = 0


@dataclass(frozen=True)
class Source:
    """A data set of a configuration: its name, how much of the training it is, its usual and its largest shape."""

    name: str
    share: float
    usual: Shape
    largest: Shape
    folders: tuple[str, ...]


def sources(data: dict[str, Any]) -> list[Source]:
    """The sources of a data section. Raises ValueError for a class of data module whose shapes are not known here."""
    settings = data["init_args"]
    parts = settings.get("sources", [data])
    weights = settings.get("weights") or _images(parts, settings.get("repeats"))
    return [_source(part, weight / sum(weights)) for part, weight in zip(parts, weights, strict=True)]


def _images(parts: list[dict[str, Any]], repeats: list[int] | None) -> list[float]:
    """Of each source in an epoch, where all shards are on this machine; else the repeats alone."""
    folders = [part["init_args"]["train_shards"] for part in parts]
    repeats = repeats or [1] * len(parts)
    if not all(Path(folder).is_dir() for source in folders for folder in source):
        return [float(times) for times in repeats]
    images = [sum(len(index) for folder in source for _, index in open_shards(Path(folder))) for source in folders]
    return [float(times * count) for times, count in zip(repeats, images, strict=True)]


def _source(data: dict[str, Any], share: float) -> Source:
    """Usual lengths are what batches are padded to: 95th percentiles of T5's tokens in real samples (docs/scale.md)."""
    path, settings = data["class_path"], data["init_args"]
    module, _, kind = path.rpartition(".")
    asked = _INSTRUCTION
    longest, context = settings.get("max_tokens", 0), settings.get("max_context_tokens", 0)
    if kind == "LocalizedNarrativesDataModule":
        usual, prompts, most = (_SENTENCE if settings["sentences"] else _NARRATIVE), 1, 1
        context = context if any(settings["prompts"]) else 0
    elif kind == "ImageCaptionDataModule":
        usual, prompts, most = _CAPTION, 1, 1
        context = context if settings["split_prefix"] or any(settings["prompts"]) else 0
    elif kind == "ReferringDataModule":
        usual, prompts, most = _EXPRESSION, _EXPRESSIONS, settings["expressions_per_image"]
        context = context if settings["context_prompt"] is not None else 0
    elif kind == "RegionsDataModule":
        usual, prompts, most = _PHRASE, _REGIONS, settings["regions_per_image"]
        context = context if settings["context_prompt"] is not None else 0
    elif kind == "ConversationsDataModule":
        usual, prompts, most = longest, _TURNS, settings["turns_per_image"]
    elif kind == "ReferringDialoguesDataModule":
        usual, prompts, most = _FORM, _EXPRESSIONS, settings["expressions_per_image"]
        asked = _FORM + _EXPRESSION
    elif kind == "RegionDialoguesDataModule":
        usual, prompts, most = _FORM + _PHRASE, _REGIONS, settings["regions_per_image"]
        asked = _FORM
    elif kind == "ConversationDialoguesDataModule":
        usual, prompts, most = _ANSWER, _TURNS, settings["turns_per_image"]
        asked = (_TURNS - 1) * (_INSTRUCTION + _ANSWER) + _INSTRUCTION  # with all turns before the last one
    elif kind == "InstancesDataModule":
        usual, prompts, most = 0, _OBJECTS, _OBJECTS
    else:
        raise ValueError(f"{path}: what its batches look like is not known here")
    extra: dict[str, Any] = {
        "boxes": kind in ("RegionsDataModule", "InstancesDataModule"),
        "masks": bool(settings.get("masks")) or kind in ("InstancesDataModule", "ReferringDialoguesDataModule"),
        "labels": len(settings.get("attributes", ())),
        "marks": settings["visual_prompts"] if kind == "RegionDialoguesDataModule" else 0,
    }
    return Source(
        getattr(import_module(module), kind).name,
        share,
        Shape(min(prompts, most), min(usual, longest), min(context, asked), **extra),
        Shape(most, longest, context, **extra),
        tuple(settings["train_shards"]),
    )


def made_up_batch(task: Task, source: str, shape: Shape, images: int, side: int) -> Batch:
    """A batch of so many black square images; answers are all as long as the shape says."""
    prompts = images * shape.prompts
    index = torch.arange(images).repeat_interleave(shape.prompts)
    boxes = torch.tensor([0.0, 0.0, 1.0, 1.0]).repeat(prompts, 1)
    if shape.boxes:  # all different
        boxes[:, :2] = torch.linspace(0.0, 0.5, prompts)[:, None]
    targets = None
    if shape.tokens:
        located = torch.ones(prompts, shape.tokens, dtype=torch.bool)
        corners = boxes.view(-1, 1, 2, 2).repeat(1, shape.tokens, 1, 1)
        answers = _words(task, prompts, shape.tokens)
        if shape.masks and isinstance(task.core, PixelSail):
            answers[:, 1] = task.core.special.seg
        targets = Targets(answers, corners, located)
    return Batch(
        keys=[""] * images,
        positions=[0] * images,
        images=torch.zeros(images, 3, side, side, dtype=torch.uint8),
        sizes=torch.full((images, 2), side),
        original_sizes=torch.full((images, 2), side),
        prompts=Prompts(index, boxes, _words(task, prompts, shape.context) if shape.context else None),
        targets=targets,
        references=[Reference("", "") for _ in range(prompts)],
        sources=[source] * images,
        masks=torch.ones(prompts, side, side, dtype=torch.bool) if shape.masks else None,
        labels=torch.zeros(prompts, shape.labels, dtype=torch.long) if shape.labels else None,
        visual_prompts=_marks(images, shape.marks, side) if shape.marks else None,
    )


def _marks(images: int, regions: int, side: int) -> VisualPrompts:
    """Regions of every image, side by side."""
    masks = torch.zeros(regions, side, side, dtype=torch.bool)
    for region, columns in zip(masks, torch.arange(side).tensor_split(regions), strict=True):
        region[:, columns] = True
    index = torch.arange(images).repeat_interleave(regions)
    return VisualPrompts(index, torch.arange(regions).repeat(images), masks.repeat(images, 1, 1))


def _words(task: Task, rows: int, length: int) -> Tensor:
    """int[rows, length]: <bos>, some word again and again, </s>."""
    model = getattr(task.core, "language_model", task.core)
    special = [getattr(model, name, 0) for name in ("bos_id", "eos_id", "pad_id")]
    tokens = torch.full((rows, length), next(word for word in range(4) if word not in special))
    tokens[:, 0], tokens[:, -1] = special[0], special[1]
    return tokens
