"""Descriptions of regions as a dialogue: "What is <Prompt3>?" - "<Prompt3>: a brown dog"."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from datamodules.base import MakeQuestions, Record
from datamodules.chat_text import prompt_name
from datamodules.dialogue_forms import DESCRIBE_REGION, NO_SUCH_REGION, REGION_DESCRIBED
from datamodules.dialogues import Dialogue, DialogueDataModule
from datamodules.referring import boxes_in_view, is_shown
from datamodules.region_marks import Mark, region_mark
from datamodules.regions import Region, read_regions
from datamodules.samples import Question, VisualPrompt
from datamodules.views import View
from pixel_llm.metrics.region_overlap import merge_groups
from pixel_llm.structures import Reference

Box = tuple[float, float, float, float]


@dataclass
class RegionDialogues:
    """Asks what the regions of an image are, each by its name.

    Regions at the same place are one, whatever is said of it, see `places`: of two marks for the same patches one is
    lost. In training places of the view are drawn and named at random, at most `regions` and as there are names, and
    one sentence is asked of each; a name that no region has is asked about too, with the probability `absent`.
    In evaluation all sentences are asked in order, or the first `regions`, and their places are named in that order.
    An image of which nothing is left gets one empty question.
    """

    dialogue: Dialogue
    regions: int | None
    mark: Mark
    absent: float

    def __call__(self, record: Record, view: View, rng: np.random.Generator) -> list[Question]:
        content = json.loads(record["json"])
        found = read_regions(content)
        boxes = [tuple(box) for box in boxes_in_view([region.box for region in found], content, view).tolist()]
        if self.dialogue.training:
            questions = self._drawn(found, boxes, content, view, rng)
        else:
            questions = self._first(found, boxes, content, view, rng)
        key = f"{content['dataset_id']}/{content['image_id']}/"
        return questions or [self.dialogue.nothing(Reference(key, ""))]

    def _drawn(
        self, found: list[Region], boxes: list[Box], content: dict[str, Any], view: View, rng: np.random.Generator
    ) -> list[Question]:
        names = self.dialogue.chat.special.visual_prompts
        shown = np.flatnonzero(is_shown(np.array(boxes).reshape(-1, 4))).tolist()
        alternatives = [[shown[i] for i in place] for place in places([found[i] for i in shown])]
        symbols = rng.permutation(names).tolist()
        named = [alternatives[i] for i in rng.permutation(len(alternatives))[:names][: self.regions]]
        chosen = [sentences[int(rng.integers(len(sentences)))] for sentences in named]
        prompts = [
            VisualPrompt(symbol, region_mark(self.mark, boxes[i], found[i].rle, view, rng))
            for symbol, i in zip(symbols, chosen, strict=False)
        ]
        questions = [
            self._ask(found[i], boxes[i], prompt.symbol, content, rng)
            for i, prompt in zip(chosen, prompts, strict=True)
        ]
        if questions and len(prompts) < names and rng.random() < self.absent:
            questions.append(self._ask_absent(symbols[len(prompts)], content, rng))
        for question in questions:
            question.visual_prompts = prompts
        return questions

    def _first(
        self, found: list[Region], boxes: list[Box], content: dict[str, Any], view: View, rng: np.random.Generator
    ) -> list[Question]:
        names, asked = self.dialogue.chat.special.visual_prompts, found[: self.regions]
        named = places(asked)
        if len(named) > names:
            image = f"{content['dataset_id']} {content['image_id']}"
            raise ValueError(f"{image}: more than {names} regions: set evaluation_regions, or more visual_prompts")
        prompts = [
            VisualPrompt(symbol, region_mark(self.mark, boxes[first], found[first].rle, view))
            for symbol, (first, *_) in enumerate(named)
        ]
        symbols = {i: symbol for symbol, place in enumerate(named) for i in place}
        questions = [self._ask(found[i], boxes[i], symbols[i], content, rng) for i in range(len(asked))]
        for question in questions:
            question.visual_prompts = prompts
        return questions

    def _ask(
        self, region: Region, box: Box, symbol: int, content: dict[str, Any], rng: np.random.Generator
    ) -> Question:
        split, dialogue = content["dataset_id"], self.dialogue
        reference = Reference(
            f"{split}/{region.region_id}",
            region.phrase,
            split=split,
            kind=region.kind,
            targets=[box],
            mask=region.rle,
            image=f"{split}/{content['image_id']}",
        )
        asked = dialogue.chat.encode(_about(dialogue.form(DESCRIBE_REGION, rng), symbol))
        form = _about(dialogue.form(REGION_DESCRIBED, rng), symbol)
        question = dialogue.ask(reference, asked, dialogue.chat.encode(form, phrase=region.phrase))
        question.prompt_box = box
        return question

    def _ask_absent(self, symbol: int, content: dict[str, Any], rng: np.random.Generator) -> Question:
        dialogue, image = self.dialogue, f"{content['dataset_id']}/{content['image_id']}"
        asked = dialogue.chat.encode(_about(dialogue.form(DESCRIBE_REGION, rng), symbol))
        answer = dialogue.chat.encode(_about(dialogue.form(NO_SUCH_REGION, rng), symbol))
        return dialogue.ask(Reference(f"{image}/absent", "", split=content["dataset_id"], image=image), asked, answer)


def _about(form: str, symbol: int) -> str:
    return form.replace("<PromptK>", prompt_name(symbol))


def places(regions: list[Region]) -> list[list[int]]:
    """The indices of the regions at each place, in order: of those with one mask, and of those without a mask whose
    boxes overlap so much that dense captioning takes them for one (IoU 0.7).
    """
    masked: dict[str, list[int]] = {}
    for i, region in enumerate(regions):
        if region.rle:
            masked.setdefault(str(region.rle["counts"]), []).append(i)
    boxed = [i for i, region in enumerate(regions) if not region.rle]
    groups = merge_groups(np.array([regions[i].box for i in boxed], dtype=np.float64).reshape(-1, 4))
    return sorted([*masked.values(), *([boxed[i] for i in group] for group in groups)])


class RegionDialoguesDataModule(DialogueDataModule):
    """Regions to be described, from the shards of `RegionsDataModule`; all of an image are marked in it together.

    regions_per_image: at most so many, drawn anew each time, are marked and asked about in a training image. With one
        a model learns to read what is marked before it has to tell names apart.
    evaluation_regions: only so many, the first, are asked about in evaluation; None: all, for which there must be
        names.
    mark: a region is shown to the model by its "mask" (its filled box where there is none), its filled "box", or a
        "click" of one pixel, in training drawn well inside of it, in evaluation its innermost.
    absent: how often an image is also asked about a name that no region has, in training (published: 0.05).
    Other arguments: see `DialogueDataModule`.
    """

    name = "region_dialogues"
    kinds = ("regions", "referring")

    def __init__(
        self,
        *,
        regions_per_image: int = 5,
        evaluation_regions: int | None = None,
        mark: Mark = "mask",
        absent: float = 0.05,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        if not 0 <= absent <= 1:
            raise ValueError(f"absent: {absent} is no probability")
        self.regions_per_image, self.evaluation_regions = regions_per_image, evaluation_regions
        self.mark, self.absent = mark, absent

    def questions(self, training: bool) -> MakeQuestions:
        asked = self.regions_per_image if training else self.evaluation_regions
        return RegionDialogues(self.dialogue(training), asked, self.mark, self.absent)
