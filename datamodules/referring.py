"""Referring expressions: what each sentence about an image names, as a box and a mask."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.base import MakeQuestions, Record, ShardDataModule
from datamodules.formats.masks import union
from datamodules.instances import mask_in_view
from datamodules.location_text import LocationText
from datamodules.samples import Question
from datamodules.tokenizer import Tokenizer
from datamodules.views import View
from pixel_llm.coordinates import box_original_px_to_01
from pixel_llm.structures import Reference


@dataclass
class ReferringQuestions:
    """Asks where the objects are that the expressions of an image name.

    In training, expressions for exactly one object that the view shows are drawn, at most `expressions` of them; in
    evaluation all are asked in order, or the first `expressions`. An image of which nothing is left gets one empty
    question without an answer, so that every batch has something to ask.
    The decoder's tokens are the query, or with `location_text` the location of an expression for one object.
    """

    tokenizer: Tokenizer
    max_tokens: int
    context_prompt: str | None
    max_context_tokens: int
    expressions: int | None
    masks: bool
    location_text: LocationText | None
    training: bool

    def __call__(self, record: Record, view: View, rng: np.random.Generator) -> list[Question]:
        content = json.loads(record["json"])
        shown = boxes_in_view([found["bbox"] for found in content["objects"]], content, view)
        asked = content["expressions"]
        if self.training:
            visible = is_shown(shown)
            asked = [e for e in asked if len(e["targets"]) == 1 and visible[e["targets"][0]]]
            asked = [asked[i] for i in rng.permutation(len(asked))]
        asked = asked[: self.expressions]
        return [self._ask(e, content, shown, view) for e in asked] or [self._nothing(content, record, view)]

    def _ask(self, expression: dict[str, Any], content: dict[str, Any], shown: Any, view: View) -> Question:
        targets = expression["targets"]
        reference = Reference(
            f"{content['dataset_id']}/{expression['id']}",
            expression["text"],
            split=content["dataset_id"],
            kind=expression["kind"],
            targets=[tuple(box) for box in shown[targets].tolist()],
            mask=union([content["objects"][i]["rle"] for i in targets], content["height"], content["width"]),
        )
        tokens = self._tokens(expression["text"], shown[targets])
        boxes = np.full((len(tokens), 4), np.nan)
        if len(targets) == 1:
            boxes[-1] = shown[targets[0]]
        context = query_context(self.tokenizer, expression["text"], self.context_prompt, self.max_context_tokens)
        question = Question(reference, tokens, boxes, context)
        if self.masks and reference.mask:
            question.mask = mask_in_view(reference.mask, view)
        return question

    def _tokens(self, text: str, boxes: Any) -> list[int]:
        if self.location_text is None:
            return query_tokens(self.tokenizer, text, self.max_tokens)
        written = self.location_text.write(boxes[0], self.tokenizer) if len(boxes) == 1 else []
        return [self.tokenizer.bos_id, *written, self.tokenizer.eos_id]

    def _nothing(self, content: dict[str, Any], record: Record, view: View) -> Question:
        reference = Reference(f"{content['dataset_id']}/{record['__key__']}/", "", split=content["dataset_id"])
        return Question(reference, query_tokens(self.tokenizer, "", self.max_tokens), np.full((2, 4), np.nan))


def boxes_in_view(boxes: Sequence[Sequence[float]], content: Mapping[str, Any], view: View) -> NDArray[np.float64]:
    """Boxes x0 y0 x1 y1 in pixels of the image -> float[N, 4] in [0, 1] of the view.

    content: the sample's `json` field, which says the size of the image.
    """
    size = (content["height"], content["width"])
    return view.boxes(np.array([box_original_px_to_01(box, size) for box in boxes], float).reshape(-1, 4))


def is_shown(boxes: NDArray[np.float64]) -> NDArray[np.bool_]:
    """float[N, 4] in a view -> bool[N]: the box has an area there."""
    return np.all(boxes[:, 2:] > boxes[:, :2], axis=1)


def query_tokens(tokenizer: Tokenizer, text: str, max_tokens: int) -> list[int]:
    """<bos> text </s>; a text that is too long is cut but keeps its </s>, which its box is read from."""
    ids, _ = tokenizer.encode(text)
    return [tokenizer.bos_id, *ids[: max_tokens - 2], tokenizer.eos_id]


def query_context(tokenizer: Tokenizer, text: str, context_prompt: str | None, max_tokens: int) -> list[int]:
    """The prompt's text that goes with a query; none where the model reads the query in the decoder alone."""
    return [] if context_prompt is None else tokenizer.context(context_prompt + text, max_tokens)


class ReferringDataModule(ShardDataModule):
    """Referring expressions with boxes, and masks where the data have them.

    masks: load the objects' masks for training; scoring takes them from the annotations in any case.
    expressions_per_image: at most so many, drawn anew each time, are asked about a training image.
    evaluation_expressions: only so many, the first, are asked in evaluation (the published code asks 16); None: all.
    context_prompt: the query, behind this text, is also the prompt's text (published: "where is "); None: the model
        reads it in the decoder alone (the paper).
    location_text: how the decoder writes boxes, which then needs a `context_prompt`; None: it reads the query.
    max_tokens, max_context_tokens: lengths of queries and prompt texts, special tokens included; longer ones are cut.
    Other arguments: see `ShardDataModule`.
    """

    name = "referring"
    kinds = ("referring",)

    def __init__(
        self,
        *,
        masks: bool = False,
        expressions_per_image: int = 16,
        evaluation_expressions: int | None = None,
        context_prompt: str | None = None,
        max_tokens: int = 40,
        max_context_tokens: int = 40,
        location_text: LocationText | None = None,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self.masks = masks
        self.expressions_per_image, self.evaluation_expressions = expressions_per_image, evaluation_expressions
        self.context_prompt, self.max_tokens, self.max_context_tokens = context_prompt, max_tokens, max_context_tokens
        self.location_text = location_text
        if location_text is not None:
            if context_prompt is None:
                raise ValueError("location_text: the decoder writes the box, so the query needs a context_prompt")
            location_text.check(self.tokenizer)

    def questions(self, training: bool) -> MakeQuestions:
        asked = self.expressions_per_image if training else self.evaluation_expressions
        lengths = (self.max_tokens, self.context_prompt, self.max_context_tokens)
        masks = self.masks and training
        return ReferringQuestions(self.tokenizer, *lengths, asked, masks, self.location_text, training)
