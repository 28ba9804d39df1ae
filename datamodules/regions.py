"""Regions: boxes in images, each with its sentence. For captioning what a box shows, and all of an image's at once."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from datamodules.base import MakeQuestions, Record, ShardDataModule
from datamodules.instances import mask_in_view
from datamodules.referring import boxes_in_view, is_shown, query_context, query_tokens
from datamodules.samples import Question
from datamodules.tokenizer import Tokenizer
from datamodules.views import View
from pixel_llm.structures import Reference

RegionPrompt = Literal["box", "points"]

_MIDDLE = 0.5  # clicks fall into so much of a box's sides
# The plastic number's powers: the places n * step, modulo 1, cover a square evenly, however many there are.
_STEP = np.array([0.7548776662466927, 0.5698402909980532])


@dataclass(frozen=True)
class Region:
    """box: x0 y0 x1 y1 in pixels of the original image.  rle: its object's mask, None where there is none."""

    region_id: str
    box: Sequence[float]
    phrase: str
    kind: str = ""
    rle: dict[str, Any] | None = None


def read_regions(content: dict[str, Any]) -> list[Region]:
    """The regions of a sample of kind "regions", or the expressions for exactly one object of one of kind "referring".

    content: the sample's `json` field.
    """
    if "regions" in content:
        return [Region(r["id"], r["bbox"], r["phrase"]) for r in content["regions"]]
    alone = [(e, content["objects"][e["targets"][0]]) for e in content["expressions"] if len(e["targets"]) == 1]
    return [Region(e["id"], found["bbox"], e["text"], e["kind"], found["rle"]) for e, found in alone]


@dataclass
class RegionQuestions:
    """Asks what the boxes of an image show, or what lies where clicks are.

    In training, regions that the view shows are drawn, at most `regions` of them; in evaluation all are asked in
    order, or the first `regions`. An image of which nothing is left gets one empty question with a box of no area.
    """

    tokenizer: Tokenizer
    max_tokens: int
    context_prompt: str | None
    max_context_tokens: int
    regions: int | None
    clicks: int
    training: bool

    def __call__(self, record: Record, view: View, rng: np.random.Generator) -> list[Question]:
        content = json.loads(record["json"])
        asked = read_regions(content)
        shown = boxes_in_view([region.box for region in asked], content, view)
        order = np.arange(len(asked))
        if self.training:
            order = rng.permutation(np.flatnonzero(is_shown(shown)))
        questions = [self._ask(asked[i], shown[i], content, view, rng) for i in order[: self.regions]]
        return questions or [self._question(content, "", "", (0.0, 0.0, 0.0, 0.0))]

    def _ask(
        self, region: Region, box: NDArray[np.float64], content: dict[str, Any], view: View, rng: np.random.Generator
    ) -> Question:
        x0, y0, x1, y1 = box.tolist()
        question = self._question(content, region.region_id, region.phrase, (x0, y0, x1, y1))
        question.reference.targets = [question.prompt_box]
        question.reference.kind = region.kind
        if self.clicks:
            places = self._drawn_clicks(region, box, view, rng) if self.training else spread_clicks(box, self.clicks)
            question.points = [(x, y, 1) for x, y in places.tolist()]
        return question

    def _question(
        self, content: dict[str, Any], region_id: str, phrase: str, box: tuple[float, float, float, float]
    ) -> Question:
        split, image = content["dataset_id"], f"{content['dataset_id']}/{content['image_id']}"
        key = f"{split}/{region_id}" if region_id else f"{image}/"
        reference = Reference(key, phrase, split=split, image=image)
        tokens = query_tokens(self.tokenizer, phrase, self.max_tokens)
        context = query_context(self.tokenizer, "", self.context_prompt, self.max_context_tokens)
        return Question(reference, tokens, np.full((len(tokens), 4), np.nan), context, box)

    def _drawn_clicks(
        self, region: Region, box: NDArray[np.float64], view: View, rng: np.random.Generator
    ) -> NDArray[np.float64]:
        """float[clicks, 2] xy: drawn from the mask, or where the view shows none from the middle of the box."""
        on_object = mask_in_view(region.rle, view).numpy() if region.rle else np.zeros((1, 1), bool)
        rows, columns = np.nonzero(on_object)
        if not len(rows):
            return _in_middle(box, rng.random((self.clicks, 2)))
        drawn = rng.integers(len(rows), size=self.clicks)
        height, width = on_object.shape
        return np.column_stack([(columns[drawn] + 0.5) / width, (rows[drawn] + 0.5) / height])


def spread_clicks(box: NDArray[np.float64], clicks: int) -> NDArray[np.float64]:
    """float[clicks, 2] xy: the centre of a box x0 y0 x1 y1, then places spread evenly over its middle part."""
    return _in_middle(box, (0.5 + np.arange(clicks)[:, None] * _STEP) % 1)


def _in_middle(box: NDArray[np.float64], fractions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fractions float[N, 2] in [0, 1] of the middle part of a box -> xy in the frame of the box."""
    return box[:2] + (box[2:] - box[:2]) * (0.5 + (fractions - 0.5) * _MIDDLE)


class RegionsDataModule(ShardDataModule):
    """Regions with their sentences: Visual Genome's, or referring expressions for one object.

    regions_per_image: at most so many, drawn anew each time, are asked about a training image.
    evaluation_regions: only so many, the first, are asked in evaluation (the published code asks 100); None: all.
    context_prompt: the prompt's text (published: "an object of "); None: the prompt is the place alone.
    max_tokens, max_context_tokens: lengths of sentences and prompt texts, special tokens included; longer ones are
        cut, sentences so that they keep their </s>.
    prompt: "box" asks by the region's box, "points" by clicks on it.
    clicks: how many, with "points"; in training drawn from the region's mask, or where there is none from the middle
        half of its box, in evaluation the centre of the box and then places spread evenly over its middle half.
    Other arguments: see `ShardDataModule`.
    """

    name = "regions"
    kinds = ("regions", "referring")

    def __init__(
        self,
        *,
        regions_per_image: int = 100,
        evaluation_regions: int | None = None,
        context_prompt: str | None = None,
        max_tokens: int = 40,
        max_context_tokens: int = 8,
        prompt: RegionPrompt = "box",
        clicks: int = 1,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        if clicks < 1:
            raise ValueError(f"clicks: {clicks}, but a prompt by points needs at least one")
        self.regions_per_image, self.evaluation_regions = regions_per_image, evaluation_regions
        self.context_prompt, self.max_tokens, self.max_context_tokens = context_prompt, max_tokens, max_context_tokens
        self.prompt, self.clicks = prompt, clicks

    def questions(self, training: bool) -> MakeQuestions:
        asked = self.regions_per_image if training else self.evaluation_regions
        lengths = (self.max_tokens, self.context_prompt, self.max_context_tokens)
        clicks = self.clicks if self.prompt == "points" else 0
        return RegionQuestions(self.tokenizer, *lengths, asked, clicks, training)
