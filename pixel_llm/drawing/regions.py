"""What queries were found to mean: box and mask over the image, beside the true ones where they are known."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from pixel_llm.drawing.frames import draw_frame
from pixel_llm.drawing.lettering import BLACK, Colour, shortened
from pixel_llm.drawing.masks import outline, stencil
from pixel_llm.drawing.panels import Panel, fitted, sheet
from pixel_llm.metrics.referring_scores import Answer, Truth, compare
from pixel_llm.structures import ReferringPrediction

FOUND: Colour = (225, 0, 140)
TRUTH: Colour = (0, 90, 200)
_OPACITY = 0.5
_LONGEST_ANSWER = 130  # characters


def draw_regions(
    image: NDArray[np.uint8],
    size: tuple[int, int],
    answers: Sequence[ReferringPrediction],
    truths: Sequence[Truth | None],
) -> Image.Image:
    """A panel for each query: the found box and mask in one colour, outlines of the true ones in another, the IoU, and
    what the model said.

    image: uint8[h, w, 3] RGB in any resolution.  size: (height, width) of the original image, to whose pixels boxes
    and masks refer.  truths: None where the truth is not known.
    """
    return sheet([_panel(image, size, *pair) for pair in zip(answers, truths, strict=True)])


def _panel(image: NDArray[np.uint8], size: tuple[int, int], answer: ReferringPrediction, truth: Truth | None) -> Panel:
    picture = fitted(image)
    if answer.mask:
        picture.paste(FOUND, (0, 0), stencil(answer.mask, picture.size).point(lambda value: round(value * _OPACITY)))
    if truth:
        if truth.mask:
            picture.paste(TRUTH, (0, 0), outline(truth.mask, picture.size))
        for box in truth.boxes:
            draw_frame(picture, size, box, TRUTH)
    empty = answer.mask is not None and not coco_mask.area(answer.mask)
    nothing = empty and answer.answer is not None  # whoever answers in words has no box but the mask's
    if not nothing:
        draw_frame(picture, size, answer.box, FOUND)
    legend = [("nothing found" if nothing else "found, with an empty mask" if empty else "found", FOUND)]
    if truth:
        legend.append(("truth" if truth.boxes else "truth: nothing is meant", TRUTH))
    return Panel(answer.query, picture, [*legend, *((text, BLACK) for text in figures(answer, truth))])


def figures(answer: ReferringPrediction, truth: Truth | None) -> list[str]:
    """How far an answer agrees with the truth, and what the model itself says, each in a few words."""
    texts = []
    if truth:
        row = compare(truth, Answer(answer.box, answer.mask))
        if row.box_iou is not None:
            texts.append(f"box IoU {row.box_iou:.2f}")
        if row.segmented and row.targets and row.intersection is not None and row.union is not None:
            texts.append(f"mask IoU {row.intersection / max(row.union, 1):.2f}")
    if answer.score is not None:
        texts.append(f"expected IoU {answer.score:.2f}")
    if answer.answer is not None:
        texts += f"answer: {shortened(answer.answer, _LONGEST_ANSWER)}".split()
    return texts
