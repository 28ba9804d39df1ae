"""Conversations about an image and its regions, each question with what was said before it."""

import json
import re
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from datamodules.base import ImageSamples, MakeQuestions, Record
from datamodules.chat_text import prompt_name
from datamodules.dialogues import Dialogue, DialogueDataModule
from datamodules.formats.llava import REGION
from datamodules.loader import MakeSample
from datamodules.referring import boxes_in_view, is_shown
from datamodules.region_marks import Mark, region_mark
from datamodules.samples import Question, VisualPrompt
from datamodules.views import View
from pixel_llm.run_lengths import mask_box
from pixel_llm.structures import Reference

_TYPED_NAME = re.compile(r"<(Prompt[0-9]+)>")


@dataclass
class ConversationDialogues:
    """Asks the questions about an image: in training a random `turns` of them, in evaluation all in order.

    Each goes with all turns before it, as far as they fit. Regions that the turns name are marked in the image: in
    training by names drawn at random, as many as there are names for and the view shows, and a turn about another one
    is left out; in evaluation they are named in order.
    """

    dialogue: Dialogue
    turns: int
    mark: Mark

    def __call__(self, record: Record, view: View, rng: np.random.Generator) -> list[Question]:
        content = json.loads(record["json"])
        prompts = self._prompts(content, view, rng)
        names = {region: prompt_name(prompt.symbol) for region, prompt in prompts.items()}
        given = {prompt.symbol for prompt in prompts.values()} or None
        said: list[list[int]] = []
        questions = []
        for number, turn in enumerate(content["turns"]):
            if content.get("regions") and not _named(turn) <= prompts.keys():
                continue
            spoken = [_with_names(turn[part], names) for part in ("question", "answer")]
            asked, answer = (self.dialogue.chat.encode("{said}", given, said=text) for text in spoken)
            reference = Reference(f"{record['__key__']}/{number}", spoken[1], split=content["dataset_id"])
            questions.append(self.dialogue.ask(reference, asked, answer, *said))
            questions[-1].visual_prompts = list(prompts.values())
            said += [asked, answer]
        if self.dialogue.training:
            questions = [questions[i] for i in rng.permutation(len(questions))[: self.turns]]
        return questions or [self.dialogue.nothing(Reference(f"{record['__key__']}/", ""))]

    def _prompts(self, content: dict[str, Any], view: View, rng: np.random.Generator) -> dict[int, VisualPrompt]:
        """The marked regions by their numbers in the texts."""
        rles, names = content.get("regions", []), self.dialogue.chat.special.visual_prompts
        if not rles:
            return {}
        boxes = boxes_in_view([mask_box(rle) for rle in rles], content, view)
        order, symbols, drawn = np.arange(len(rles)), np.arange(names), None
        if self.dialogue.training:
            order, symbols, drawn = rng.permutation(np.flatnonzero(is_shown(boxes))), rng.permutation(names), rng
        elif len(rles) > names:
            raise ValueError(f"{len(rles)} regions, but only {names} have a name: more visual_prompts are needed")
        prompts = {}
        for region, symbol in zip(order.tolist(), symbols.tolist(), strict=False):
            x0, y0, x1, y1 = boxes[region].tolist()
            mask = region_mark(self.mark, (x0, y0, x1, y1), rles[region], view, drawn)
            prompts[region + 1] = VisualPrompt(symbol, mask)
        return prompts


def _named(turn: dict[str, str]) -> set[int]:
    return {int(number) for said in turn.values() for number in REGION.findall(said)}


def _with_names(said: str, names: dict[int, str]) -> str:
    """A text with the symbols of its regions; where there are none, what looks like one stays text."""
    if not names:
        return said
    return REGION.sub(lambda name: names[int(name[1])], _TYPED_NAME.sub(r"\1", said))


class ConversationDialoguesDataModule(DialogueDataModule):
    """Questions about images and their regions from shards of kind `llava`, and conversations about no image from those
    of kind `conversations`.

    turns_per_image: at most so many, drawn anew each time, are asked about a training image.
    mark: see `RegionDialoguesDataModule`.
    Other arguments: see `DialogueDataModule`; earlier turns count in `max_context_tokens`.
    """

    name = "conversation_dialogues"
    kinds = ("llava", "conversations")

    def __init__(
        self,
        *,
        turns_per_image: int = 5,
        mark: Mark = "mask",
        max_tokens: int = 128,
        max_context_tokens: int = 256,
        **shared: Any,
    ) -> None:
        super().__init__(max_tokens=max_tokens, max_context_tokens=max_context_tokens, **shared)
        self.turns_per_image, self.mark = turns_per_image, mark

    def questions(self, training: bool) -> MakeQuestions:
        return ConversationDialogues(self.dialogue(training), self.turns_per_image, self.mark)

    def make_sample(self, training: bool) -> MakeSample:
        made = super().make_sample(training)
        return replace(made, text_alone=True) if isinstance(made, ImageSamples) else made
