"""Questions for a single transformer: what its data modules share."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from datamodules.base import ShardDataModule
from datamodules.chat_text import ChatText
from datamodules.samples import Question
from pixel_llm.structures import Reference


@dataclass(frozen=True)
class Dialogue:
    """Writes questions with their answers.

    max_tokens, max_context_tokens: see `DialogueDataModule`.
    training: draw among forms, and take the first otherwise.
    """

    chat: ChatText
    max_tokens: int
    max_context_tokens: int
    training: bool

    def ask(
        self, reference: Reference, question: Sequence[int], answer: Sequence[int], *earlier: Sequence[int]
    ) -> Question:
        """A question and its answer by the ids of their texts.  earlier: the questions and answers before, in turn."""
        context = self.chat.context([*earlier, question], self.max_context_tokens)
        return Question(reference, self.chat.answer(answer, self.max_tokens), context=context)

    def nothing(self, reference: Reference) -> Question:
        """An empty question, for an image of which nothing is left, so that every batch has something to ask."""
        return self.ask(reference, [], [])

    def form(self, forms: Sequence[str], rng: np.random.Generator) -> str:
        """One of the forms."""
        return forms[int(rng.integers(len(forms)))] if self.training else forms[0]


class DialogueDataModule(ShardDataModule):
    """Base class of the data modules whose questions and answers hold symbols.

    visual_prompts: how many regions of an image can be named (published: 15).
    max_tokens: length of an answer with <bos> and </s>; a longer one loses words at its end, but no symbol.
    max_context_tokens: length of a question with what was said before; a longer one loses words at its beginning.
    Other arguments: see `ShardDataModule`.
    """

    evaluated_with_features = False  # they are those of teachers

    def __init__(
        self, *, visual_prompts: int = 15, max_tokens: int = 64, max_context_tokens: int = 64, **shared: Any
    ) -> None:
        super().__init__(**shared)
        self.chat = ChatText(self.tokenizer, visual_prompts)
        self.max_tokens, self.max_context_tokens = max_tokens, max_context_tokens

    def dialogue(self, training: bool) -> Dialogue:
        return Dialogue(self.chat, self.max_tokens, self.max_context_tokens, training)
