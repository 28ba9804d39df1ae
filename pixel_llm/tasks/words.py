"""From token locations to words with boxes, for metrics, files and people."""

from typing import Any

import torch
from torch import Tensor

from pixel_llm.coordinates import box_01_to_original_px, corners_to_box
from pixel_llm.structures import Generation, Prediction, Reference, Word


def boxes_of_words(locations: Tensor, reference: Reference) -> list[list[float]]:
    """x0 y0 x1 y1 in [0, 1] of every word of a reference: the mean over its tokens' boxes.

    locations: float[T, 2, 2], predicted with the reference's own tokens as input. A word whose tokens were cut off
    takes the box of the last word that has one.
    """
    boxes = corners_to_box(locations.float()).cpu()
    index = torch.tensor(reference.token_words[: len(boxes)])
    out: list[list[float]] = []
    for word in range(len(reference.words)):
        mine = boxes[: len(index)][index == word]
        out.append(mine.mean(0).tolist() if len(mine) else (out[-1] if out else [0.0, 0.0, 1.0, 1.0]))
    return out


def predictions(
    generation: Generation, keys: list[str], image_index: Tensor, original_sizes: Tensor, tokenizer: Any
) -> list[Prediction]:
    """What the model wrote, word by word, in pixels of the original images.

    keys: names of the P prompts.  image_index: int[P].  original_sizes: int[B, 2] of height and width.
    """
    out = []
    tokens, scores = generation.tokens.tolist(), generation.scores.tolist()
    boxes = corners_to_box(generation.locations.float()).clamp(0, 1).cpu()
    for row, key in enumerate(keys):
        caption, spans = tokenizer.decode(tokens[row])
        size = original_sizes[image_index[row]].tolist()
        skip = int(tokens[row][0] == tokenizer.bos_id)
        words = [
            Word(text, box_01_to_original_px(boxes[row, skip + torch.tensor(mine)].mean(0).tolist(), size))
            for text, mine in words_of_spans(caption, spans)
        ]
        out.append(Prediction(key, caption, words, scores[row]))
    return out


def words_of_spans(text: str, spans: list[tuple[int, int]]) -> list[tuple[str, list[int]]]:
    """The words of a text, each with the indices of the tokens (character spans) that gave it; all have one."""
    out = []
    end = 0
    for word in text.split():
        begin = text.index(word, end)
        end = begin + len(word)
        mine = [i for i, (a, b) in enumerate(spans) if a < end and b > begin]
        if mine:
            out.append((word, mine))
    return out
