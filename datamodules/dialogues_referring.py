"""Referring segmentation as a dialogue: "Segment the dog." - "It is [SEG]." """

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from datamodules.base import MakeQuestions, Record
from datamodules.dialogue_forms import NOTHING_TO_SEGMENT, SEGMENT, SEGMENTED
from datamodules.dialogues import Dialogue, DialogueDataModule
from datamodules.formats.masks import union
from datamodules.instances import mask_in_view
from datamodules.referring import boxes_in_view
from datamodules.samples import Question
from datamodules.views import View
from pixel_llm.special_tokens import SEG
from pixel_llm.structures import Reference

Targets = Literal["union", "instances"]


@dataclass
class ReferringDialogues:
    """Asks for the pixels of what the expressions of an image name.

    In training, expressions are drawn whose targets have masks and of which the view shows something, or that mean
    nothing, at most `expressions` of them; in evaluation all are asked in order, or the first `expressions`, and masks
    are left to the references. An image of which nothing is left gets one empty question.
    """

    dialogue: Dialogue
    expressions: int | None
    targets: Targets

    def __call__(self, record: Record, view: View, rng: np.random.Generator) -> list[Question]:
        content = json.loads(record["json"])
        drawn = self._drawn if self.dialogue.training else self._all
        asked = drawn(content, view, rng)
        key = f"{content['dataset_id']}/{record['__key__']}/"
        return list(islice(asked, self.expressions)) or [self.dialogue.nothing(Reference(key, ""))]

    def _all(self, content: dict[str, Any], view: View, rng: np.random.Generator) -> Iterator[Question]:
        return (self._ask(expression, [], content, view, rng) for expression in content["expressions"])

    def _drawn(self, content: dict[str, Any], view: View, rng: np.random.Generator) -> Iterator[Question]:
        for i in rng.permutation(len(content["expressions"])):
            expression = content["expressions"][i]
            rles = [content["objects"][target]["rle"] for target in expression["targets"]]
            if None in rles:
                continue
            masks = [mask for rle in rles if (mask := mask_in_view(rle, view)).any()]
            if masks or not rles:
                yield self._ask(expression, masks, content, view, rng)

    def _ask(
        self,
        expression: dict[str, Any],
        masks: list[Tensor],
        content: dict[str, Any],
        view: View,
        rng: np.random.Generator,
    ) -> Question:
        """masks: of the targets, as far as the view shows them; in training."""
        dialogue, objects = self.dialogue, [content["objects"][target] for target in expression["targets"]]
        reference = Reference(
            f"{content['dataset_id']}/{expression['id']}",
            expression["text"],
            split=content["dataset_id"],
            kind=expression["kind"],
            targets=[tuple(box) for box in boxes_in_view([o["bbox"] for o in objects], content, view).tolist()],
            mask=union([o["rle"] for o in objects], content["height"], content["width"]),
        )
        if dialogue.training:
            masks = self._answer_masks(masks, view)
        segments = len(masks) if dialogue.training else self._segments(len(objects))
        form = dialogue.form(SEGMENTED, rng) if objects else dialogue.form(NOTHING_TO_SEGMENT, rng)
        asked = dialogue.chat.encode(dialogue.form(SEGMENT, rng), sentence=said(expression["text"]))
        answer = dialogue.chat.encode(form.replace("{masks}", SEG * segments))
        question = dialogue.ask(reference, asked, answer)
        question.answer_masks = masks
        return question

    def _answer_masks(self, masks: list[Tensor], view: View) -> list[Tensor]:
        """What each [SEG] covers."""
        if not masks:
            return [torch.zeros(view.pixels.shape[-2:], dtype=torch.bool)]
        return masks if self._segments(len(masks)) == len(masks) else [torch.stack(masks).any(0)]

    def _segments(self, objects: int) -> int:
        """How many [SEG] an answer has: also nothing has one, and too many instances to be named share one."""
        fit = 0 < objects <= self.dialogue.max_tokens - 2
        return objects if fit and self.targets == "instances" else 1


def said(expression: str) -> str:
    """An expression as it stands in a question: in lower case, without its final period."""
    return expression.lower().strip().removesuffix(".")


class ReferringDialoguesDataModule(DialogueDataModule):
    """Referring expressions to be segmented, from the shards of `ReferringDataModule`.

    expressions_per_image: at most so many, drawn anew each time, are asked about a training image.
    evaluation_expressions: only so many, the first, are asked in evaluation; None: all.
    targets: an expression for several objects is answered by one mask of all, "union", or by one for each,
        "instances".
    Other arguments: see `DialogueDataModule`.
    """

    name = "referring_dialogues"
    kinds = ("referring",)

    def __init__(
        self,
        *,
        expressions_per_image: int = 5,
        evaluation_expressions: int | None = None,
        targets: Targets = "union",
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self.expressions_per_image, self.evaluation_expressions = expressions_per_image, evaluation_expressions
        self.targets = targets

    def questions(self, training: bool) -> MakeQuestions:
        asked = self.expressions_per_image if training else self.evaluation_expressions
        return ReferringDialogues(self.dialogue(training), asked, self.targets)
