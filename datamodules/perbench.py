"""PerBench's questions as dialogues: about a region's looks, with options to choose from, or answered by masks."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from datamodules.base import MakeQuestions, Record
from datamodules.chat_text import prompt_name
from datamodules.dialogue_forms import REGION_DESCRIBED
from datamodules.dialogues import Dialogue, DialogueDataModule
from datamodules.formats.perbench import CHOICE, DESCRIPTION, GIVEN, pieces
from datamodules.instances import mask_in_view
from datamodules.samples import Question, VisualPrompt
from datamodules.views import View
from pixel_llm.multiple_choice import without_subject
from pixel_llm.special_tokens import SEG
from pixel_llm.structures import Reference

DESCRIBE_IN_DETAIL = "Describe <PromptK> in as much detail as possible."
CHOOSE = "Answer a question about <PromptK>. {question} Choose the right option."


@dataclass
class PerBenchQuestions:
    """Asks the question of a record; region K of it is named <PromptK>, or in training by any name.

    In training the masks that are asked for go along, as the view shows them, one for each [SEG]; a question whose
    given regions the view does not show becomes an empty one. In evaluation masks are left to the references.
    """

    dialogue: Dialogue

    def __call__(self, record: Record, view: View, rng: np.random.Generator) -> list[Question]:
        content = json.loads(record["json"])
        regions = content["regions"]
        key = f"{content['dataset_id']}/{content['image_id']}"
        reference = Reference(
            key,
            content["answer"],
            split=content["dataset_id"],
            kind=content["task"],
            masks=[regions[index]["rle"] for index in content["targets"]],
            options=content["options"],
            image=f"{content['dataset_id']}/{content['image']}",
        )
        symbols = self._symbols(content["inputs"], key, rng)
        prompts = [
            VisualPrompt(symbol, mask_in_view(regions[index]["rle"], view)) for index, symbol in symbols.items()
        ]
        if self.dialogue.training and not all(prompt.mask.any() for prompt in prompts):
            return [self.dialogue.nothing(reference)]
        asked, answer, segmented = self._texts(content, symbols)
        question = self.dialogue.ask(reference, asked, answer)
        question.visual_prompts = prompts
        if self.dialogue.training:
            question.answer_masks = [mask_in_view(regions[index]["rle"], view) for index in segmented]
        return [question]

    def _symbols(self, inputs: Sequence[int], key: str, rng: np.random.Generator) -> dict[int, int]:
        """The name of each region that is given."""
        names = self.dialogue.chat.special.visual_prompts
        if self.dialogue.training and len(inputs) <= names:
            return dict(zip(inputs, rng.permutation(names).tolist(), strict=False))
        if max(inputs, default=0) >= names:
            last = prompt_name(max(inputs))
            raise ValueError(f"{key}: it names {last}, but there are names for {names} regions: set visual_prompts")
        return {index: index for index in inputs}

    def _texts(self, content: Mapping[str, Any], symbols: Mapping[int, int]) -> tuple[list[int], list[int], list[int]]:
        """The ids of question and answer, and the region of each [SEG] in the answer."""
        chat, task = self.dialogue.chat, content["task"]
        if task in (DESCRIPTION, CHOICE):
            name = prompt_name(symbols[content["inputs"][0]])
            asked, answered = (DESCRIBE_IN_DETAIL, REGION_DESCRIBED[0]) if task == DESCRIPTION else (CHOOSE, "{phrase}")
            form, said, _ = _tagged(content["question"], [GIVEN], {0: name})
            question = chat.encode(asked.replace("<PromptK>", name).replace("{question}", form), **said)
            answer = chat.encode(answered.replace("<PromptK>", name), phrase=without_subject(content["answer"]))
            return question, answer, []
        tags = [region["tag"] for region in content["regions"]]
        named = {index: prompt_name(symbol) for index, symbol in symbols.items()}
        asked, said, _ = _tagged(content["question"], tags, named)
        answered, answer_said, found = _tagged(content["answer"], tags, named)
        segmented = [index for index in found if index not in named]
        return chat.encode(asked, **said), chat.encode(answered, **answer_said), segmented


def _tagged(text: str, tags: Sequence[str], named: Mapping[int, str]) -> tuple[str, dict[str, str], list[int]]:
    """A text as a form, with what is said in its places, and the indices of the tags in it.

    A tag becomes the name of its region or, where it has none, [SEG].
    """
    form, said = "", dict[str, str]()
    parts = pieces(text, tags)
    for number, part in enumerate(parts):
        if isinstance(part, int):
            form += named.get(part, SEG)
        else:
            form += f"{{part{number}}}"
            said[f"part{number}"] = part
    return form, said, [part for part in parts if isinstance(part, int)]


class PerBenchDataModule(DialogueDataModule):
    """Questions about regions in PerBench's three tasks; each has an image of its own, with its own regions marked.

    Arguments: see `DialogueDataModule`; descriptions and questions with options are long.
    """

    name = "perbench"
    kinds = ("perbench",)

    def __init__(self, *, max_tokens: int = 128, max_context_tokens: int = 128, **shared: Any) -> None:
        super().__init__(max_tokens=max_tokens, max_context_tokens=max_context_tokens, **shared)

    def questions(self, training: bool) -> MakeQuestions:
        return PerBenchQuestions(self.dialogue(training))
