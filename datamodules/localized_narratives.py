"""Localized Narratives as training data: captions whose tokens carry the trace of the mouse."""

import json
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from datamodules.base import MakeQuestions, Record, ShardDataModule
from datamodules.records import read_trace
from datamodules.samples import Question
from datamodules.sentences import sentence_spans
from datamodules.token_targets import (
    boxes_by_interval,
    boxes_by_rank,
    utterance_boxes,
    valid_utterances,
    word_boxes,
    words_of_tokens,
)
from datamodules.tokenizer import Tokenizer
from datamodules.views import View
from pixel_llm.structures import Mention, Reference

Alignment = Literal["interval", "rank"]

LONG_CAPTION_PROMPTS = [
    "A long image caption: ",
    "A long image description: ",
    "Write a long description for the image. ",
    "Write a long description for the photo. ",
    "Provide a long description of what is presented in the photo. ",
    "Describe the content of the image in detail. ",
    "Can you in detail explain what you see in the image? ",
    "Could you use a few sentences to describe what you perceive in the photo? ",
    "Please provide a long depiction of the picture. ",
    "Using language, provide a long account of the image. ",
    "Use a few senetences to illustrate what is happening in the picture. ",  # spelled as published
]


@dataclass
class NarrativeQuestions:
    """Asks for the narratives of an image, whole or sentence by sentence.

    In training one narrative, and one sentence of it, is drawn; in evaluation all are asked.
    """

    tokenizer: Tokenizer
    prompts: list[str]
    max_tokens: int
    max_context_tokens: int
    sentences: bool
    alignment: Alignment
    training: bool

    def __call__(self, record: Record, view: View, rng: np.random.Generator) -> list[Question]:
        narratives = json.loads(record["json"])["narratives"]
        trace = read_trace(record["trace.npy"])
        chosen = [int(rng.integers(len(narratives)))] if self.training else list(range(len(narratives)))
        questions = []
        for index in chosen:
            told = _Told(narratives[index], trace[trace[:, 0] == index, 2:])
            spans = sentence_spans(told.caption) if self.sentences else [(0, len(told.caption))]
            if self.training:
                spans = [spans[int(rng.integers(len(spans)))]]
            prompt = self.prompts[int(rng.integers(len(self.prompts)))] if self.training else self.prompts[0]
            context = self.tokenizer.context(prompt, self.max_context_tokens)
            for number, span in enumerate(spans):
                key = f"{record['__key__']}/{index}" + (f".{number}" if self.sentences else "")
                question = self._ask(told, span, key, view)
                question.context = context
                question.reference.alternatives = [
                    n["caption"] for i, n in enumerate(narratives) if i != index and not self.sentences
                ]
                questions.append(question)
        return questions

    def _ask(self, told: "_Told", span: tuple[int, int], key: str, view: View) -> Question:
        begin, end = span
        text = told.caption[begin:end]
        words, boxes = told.words_in(span)
        ids, characters = self.tokenizer.encode(text)
        ids, characters = ids[: self.max_tokens - 1], characters[: self.max_tokens - 1]
        owners = words_of_tokens(characters, words)
        if self.alignment == "interval":
            located = boxes_by_interval(owners, boxes)
        else:
            located = told.boxes_by_rank(len(ids))
        tokens = self.tokenizer.sequence(ids, self.max_tokens)
        nothing = np.full((1, 4), np.nan)
        token_boxes = view.boxes(np.concatenate([nothing, located, nothing])[: len(tokens)])
        reference = Reference(key, text, words, _as_tuples(view.boxes(boxes)), told.mentions_in(span, view))
        reference.token_words = [-1, *owners, -1][: len(tokens)]
        return Question(reference, tokens, token_boxes)


class _Told:
    """A narrative as it lies in a shard, with its trace: float64[M, 3] of x, y, t."""

    def __init__(self, narrative: dict[str, Any], trace: NDArray[np.float64]) -> None:
        self.caption: str = narrative["caption"]
        self.trace = trace
        self._words = narrative["words"]
        self._utterances = narrative["utterances"]
        self._mentions = narrative.get("mentions", [])

    def words_in(self, span: tuple[int, int]) -> tuple[list[tuple[int, int]], NDArray[np.float64]]:
        """Character spans, relative to the stretch, of the words in it, and their boxes float[N, 4]."""
        inside = [w for w in self._words if span[0] <= w[0] and w[1] <= span[1]]
        # times and trace are compared in the trace's precision, so that rounding moves no point across a border
        intervals = [None if w[2] is None else (float(np.float32(w[2])), float(np.float32(w[3]))) for w in inside]
        return [(w[0] - span[0], w[1] - span[0]) for w in inside], word_boxes(self.trace, intervals)

    def boxes_by_rank(self, num_tokens: int) -> NDArray[np.float64]:
        """The published rule over the whole narrative, also for a part of it: it knows no words."""
        if len(self.trace) < 2 or not self._utterances:
            return np.full((num_tokens, 4), np.nan)
        centres, boxes = utterance_boxes(self.trace, [(u[1], u[2]) for u in self._utterances])
        valid = valid_utterances([u[0] for u in self._utterances], centres)
        return boxes_by_rank(num_tokens, np.clip(boxes[valid], 0, 1))

    def mentions_in(self, span: tuple[int, int], view: View) -> list[Mention]:
        inside = [m for m in self._mentions if span[0] <= m[0] and m[1] <= span[1]]
        boxes = view.boxes(np.array([m[2:] for m in inside], float).reshape(-1, 4))
        return [
            Mention(int(m[0]) - span[0], int(m[1]) - span[0], tuple(box))
            for m, box in zip(inside, boxes.tolist(), strict=True)
        ]


def _as_tuples(boxes: NDArray[np.float64]) -> list[tuple[float, float, float, float] | None]:
    return [None if box[0] != box[0] else tuple(box) for box in boxes.tolist()]


class LocalizedNarrativesDataModule(ShardDataModule):
    """Narratives with traces.

    sentences: each sentence is a target of its own (the paper); False keeps whole narratives (published code).
    alignment: "interval" binds a token to the trace of its own word (the paper); "rank" is the published rule.
    max_tokens, max_context_tokens: lengths of captions (with <bos> and </s>) and prompt texts; longer ones are cut.
    prompts: prompt texts, drawn at random in training; the first one is used in evaluation.
    Other arguments: see `ShardDataModule`.
    """

    name = "localized_narratives"
    kinds = ("localized-narratives",)

    def __init__(
        self,
        *,
        sentences: bool = True,
        alignment: Alignment = "interval",
        max_tokens: int = 128,
        max_context_tokens: int = 8,
        prompts: list[str] = LONG_CAPTION_PROMPTS,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self.sentences, self.alignment, self.prompts = sentences, alignment, prompts
        self.max_tokens, self.max_context_tokens = max_tokens, max_context_tokens

    def questions(self, training: bool) -> MakeQuestions:
        return NarrativeQuestions(
            self.tokenizer, self.prompts, self.max_tokens, self.max_context_tokens, self.sentences,
            self.alignment, training,
        )  # fmt: skip
