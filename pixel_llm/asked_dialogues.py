"""What a person asks a single transformer about a photo, as questions of a dialogue."""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from datamodules.chat_text import ChatText, prompt_name
from datamodules.dialogue_forms import DESCRIBE_REGION, SEGMENT
from datamodules.dialogues_referring import said
from datamodules.region_marks import region_mark
from datamodules.samples import Question, VisualPrompt
from datamodules.views import View
from pixel_llm.asked_queries import shown, tell_unknown
from pixel_llm.coordinates import box_original_px_to_01
from pixel_llm.run_lengths import mask_box
from pixel_llm.structures import Reference

log = logging.getLogger(__name__)


def segmenting(chat: ChatText, query: str, key: str, max_tokens: int) -> Question:
    """Asks for the pixels of what a query names. What is not read of it is logged.

    Raises ValueError with one line for an empty query.
    """
    if not query.strip():
        raise ValueError(f"query {key} is empty")
    ids = chat.encode(SEGMENT[0], sentence=said(query))
    context = chat.context([ids], max_tokens)
    if lost := len(ids) + 1 - len(context):
        log.warning("query %r is %d tokens too long: its first words are not read", shown(query), lost)
    tell_unknown(query, chat.tokenizer.encode_typed(query), chat.tokenizer)
    return Question(Reference(key, query), context=context)


def describing(chat: ChatText, marks: Sequence[Tensor], name: str, max_tokens: int) -> list[Question]:
    """Asks what each region is, all by the same name: each is for an image of its own.

    marks: bool[h, w] each, over the view's pixels.
    """
    ids = chat.encode(DESCRIBE_REGION[0].replace("<PromptK>", prompt_name(0)))
    questions = []
    for number, mark in enumerate(marks, 1):
        question = Question(Reference(f"{name}/{number}", ""), context=chat.context([ids], max_tokens))
        question.visual_prompts = [VisualPrompt(0, mark)]
        questions.append(question)
    return questions


def mask_mark(mask: dict[str, Any], view: View) -> Tensor:
    """The run-length code of a mask over the whole photo -> bool[h, w] over the view's pixels, as in training."""
    return region_mark("mask", box_original_px_to_01(mask_box(mask), view.original_size), mask, view)


def clicks_mark(points: Sequence[tuple[float, float]], view: View) -> Tensor:
    """Clicks xy in [0, 1] -> bool[h, w], the pixels that they hit."""
    height, width = view.pixels.shape[-2:]
    mark = torch.zeros(height, width, dtype=torch.bool)
    for x, y in points:
        mark[min(int(y * height), height - 1), min(int(x * width), width - 1)] = True
    return mark
