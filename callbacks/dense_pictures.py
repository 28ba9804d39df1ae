"""Shows fixed validation images with the objects that were found in them, prediction beside truth."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from callbacks.pictures import Pictures, shown_pixels
from pixel_llm.coordinates import Box, box_01_to_original_px
from pixel_llm.drawing.captioned_boxes import CaptionedBox, View, draw_captioned_boxes
from pixel_llm.metrics.region_overlap import box_ious
from pixel_llm.structures import Batch, RegionPrediction

_MOST = 16  # objects of a panel
_SAME = 0.5  # IoU of a found object and the true one that shares its colour


class DensePictures(Pictures):
    """Draws of each image as many of the surest objects as there are true ones, at least one and at most 16.

    A true object has the number and colour of the found one that it overlaps most.  Arguments: see `Pictures`.
    """

    tag = "dense"
    sources = ("regions",)

    def draw(
        self, batch: Batch, image: int, prompts: list[int], predicted: list[RegionPrediction]
    ) -> Image.Image | None:
        references = [reference for p in prompts if (reference := batch.references[p])]
        if not references:
            return None
        height, width = batch.original_sizes[image].tolist()
        true = [(box_01_to_original_px(box, (height, width)), r.caption) for r in references for box in r.targets]
        found = [answer for answer in predicted if answer.key == references[0].image]
        surest, shown = found[: min(max(len(true), 1), _MOST)], true[:_MOST]
        numbers = true_numbers([answer.box for answer in surest], [box for box, _ in shown])
        views = [
            View(
                f"prediction: the surest {len(surest)} of {len(found)}",
                [CaptionedBox(n, a.box, a.caption, f"{a.score:.2f}") for n, a in enumerate(surest, 1)],
            ),
            View(
                "truth" if len(shown) == len(true) else f"truth: {len(shown)} of {len(true)}",
                [CaptionedBox(n, *shown[i]) for n, i in sorted((n, i) for i, n in enumerate(numbers))],
            ),
        ]
        return draw_captioned_boxes(shown_pixels(batch, image), (height, width), views)


def true_numbers(found: Sequence[Box], true: Sequence[Box]) -> list[int]:
    """Numbers of true boxes: that of the found box, counted from 1, which overlaps it most; others count on."""
    overlap = box_ious(np.array(found, float).reshape(-1, 4), np.array(true, float).reshape(-1, 4))
    numbers = [0] * len(true)
    while overlap.size and overlap.max() >= _SAME:
        row, column = np.unravel_index(overlap.argmax(), overlap.shape)
        numbers[column] = int(row) + 1
        overlap[row], overlap[:, column] = 0, 0
    others = iter(range(len(found) + 1, len(found) + len(true) + 1))
    return [number or next(others) for number in numbers]
