"""Images with plain captions: COCO captions, or the text of Localized Narratives without its traces."""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from datamodules.base import MakeQuestions, Record, ShardDataModule
from datamodules.records import CAPTIONED, read_captions
from datamodules.samples import Question
from datamodules.tokenizer import Tokenizer
from datamodules.views import View
from pixel_llm.structures import Reference

SHORT_CAPTION_PROMPTS = [
    "A photo of ",
    "A short image caption: ",
    "A short image description: ",
    "An image that shows ",
    "Write a short description for the image. ",
    "Write a description for the photo. ",
    "Provide a description of what is presented in the photo. ",
    "Briefly describe the content of the image. ",
    "Can you briefly explain what you see in the image? ",
    "Could you use a few words to describe what you perceive in the photo? ",
    "Please provide a short depiction of the picture. ",
    "Using language, provide a short account of the image. ",
    "Use a few words to illustrate what is happening in the picture. ",
]


@dataclass
class CaptionQuestions:
    """Asks for a caption of the image: in training a random one, in evaluation the first, with all as references."""

    tokenizer: Tokenizer
    prompts: list[str]
    max_tokens: int
    max_context_tokens: int
    split_prefix: bool
    training: bool

    def __call__(self, record: Record, view: View, rng: np.random.Generator) -> list[Question]:
        captions = read_captions(record["json"])
        caption = captions[int(rng.integers(len(captions)))] if self.training else captions[0]
        prompt = self.prompts[int(rng.integers(len(self.prompts)))] if self.training else self.prompts[0]
        if self.split_prefix and self.training:
            prompt, caption = split_caption(caption, rng)
        ids, _ = self.tokenizer.encode(caption)
        context = self.tokenizer.context(prompt, self.max_context_tokens)
        tokens = self.tokenizer.sequence(ids, self.max_tokens)
        others = [other for other in captions if other != caption]
        reference = Reference(record["__key__"], caption, alternatives=others)
        return [Question(reference, tokens, np.full((len(tokens), 4), np.nan), context)]


def split_caption(caption: str, rng: np.random.Generator) -> tuple[str, str]:
    """Prefix and suffix of a caption, cut before a word drawn from its first half (pretraining on image-text pairs)."""
    starts = [match.start() for match in re.finditer(r"\S+", caption)]
    cut = starts[int(rng.integers(max(len(starts) // 2, 1)))] if starts else 0
    return caption[:cut], caption[cut:]


class ImageCaptionDataModule(ShardDataModule):
    """Images with captions, no locations.

    split_prefix: in training, part of the caption is given as the prompt's text and the rest is the target.
    max_tokens, max_context_tokens: lengths of captions (with <bos> and </s>) and prompt texts; longer ones are cut.
    prompts: prompt texts, drawn at random in training; the first one is used in evaluation.
    Other arguments: see `ShardDataModule`.
    """

    name = "image_captions"
    kinds = CAPTIONED

    def __init__(
        self,
        *,
        split_prefix: bool = False,
        max_tokens: int = 40,
        max_context_tokens: int = 8,
        prompts: list[str] = SHORT_CAPTION_PROMPTS,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self.split_prefix, self.prompts = split_prefix, prompts
        self.max_tokens, self.max_context_tokens = max_tokens, max_context_tokens

    def questions(self, training: bool) -> MakeQuestions:
        lengths = (self.max_tokens, self.max_context_tokens)
        return CaptionQuestions(self.tokenizer, self.prompts, *lengths, self.split_prefix, training)
