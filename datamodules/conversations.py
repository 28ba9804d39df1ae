"""Conversations about images as plain captions: each question is the prompt's text, its answer what to say."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from datamodules.base import MakeQuestions, Record, ShardDataModule
from datamodules.samples import Question
from datamodules.tokenizer import Tokenizer
from datamodules.views import View
from pixel_llm.structures import Reference


@dataclass
class ConversationQuestions:
    """Asks the questions about an image, each alone: in training a random `turns` of them, in evaluation all in order.

    What was said before is not shown (as published).
    """

    tokenizer: Tokenizer
    max_tokens: int
    max_context_tokens: int
    turns: int
    training: bool

    def __call__(self, record: Record, view: View, rng: np.random.Generator) -> list[Question]:
        turns = json.loads(record["json"])["turns"]
        asked = rng.permutation(len(turns))[: self.turns] if self.training else np.arange(len(turns))
        return [self._ask(turns[i], f"{record['__key__']}/{i}") for i in asked]

    def _ask(self, turn: dict[str, str], key: str) -> Question:
        ids, _ = self.tokenizer.encode(turn["answer"])
        tokens = self.tokenizer.sequence(ids, self.max_tokens)
        # The published wording: no blank between a question and what follows it.
        context = self.tokenizer.context(f"Question: {turn['question']}Answer: ", self.max_context_tokens)
        return Question(Reference(key, turn["answer"]), tokens, np.full((len(tokens), 4), np.nan), context)


class ConversationsDataModule(ShardDataModule):
    """Questions about images with their answers, no locations.

    turns_per_image: at most so many, drawn anew each time, are asked about a training image.
    max_tokens, max_context_tokens: lengths of answers (with <bos> and </s>) and questions; longer ones are cut.
    Other arguments: see `ShardDataModule`.
    """

    name = "conversations"
    kinds = ("llava",)

    def __init__(
        self, *, turns_per_image: int = 16, max_tokens: int = 128, max_context_tokens: int = 32, **shared: Any
    ) -> None:
        super().__init__(**shared)
        self.turns_per_image = turns_per_image
        self.max_tokens, self.max_context_tokens = max_tokens, max_context_tokens

    def questions(self, training: bool) -> MakeQuestions:
        lengths = (self.max_tokens, self.max_context_tokens)
        return ConversationQuestions(self.tokenizer, *lengths, self.turns_per_image, training)
