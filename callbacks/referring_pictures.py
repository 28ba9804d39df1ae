"""Shows fixed validation images with what their expressions were found to mean, prediction over truth."""

from PIL import Image

from callbacks.pictures import Pictures, shown_pixels
from pixel_llm.drawing.regions import draw_regions
from pixel_llm.metrics.referring import truth_of
from pixel_llm.structures import Batch, ReferringPrediction

_EXPRESSIONS = 4  # of an image, one row of panels


class ReferringPictures(Pictures):
    """Draws the first four expressions of each image: box, mask, the true ones, their IoU, and what was answered.

    Arguments: see `Pictures`.
    """

    tag = "referring"
    sources = ("referring", "referring_dialogues")

    def draw(
        self, batch: Batch, image: int, prompts: list[int], predicted: list[ReferringPrediction]
    ) -> Image.Image | None:
        height, width = batch.original_sizes[image].tolist()
        asked = [(predicted[p], reference) for p in prompts if (reference := batch.references[p]) and reference.caption]
        answers = [answer for answer, _ in asked[:_EXPRESSIONS]]
        truths = [truth_of(reference, (height, width)) for _, reference in asked[:_EXPRESSIONS]]
        return draw_regions(shown_pixels(batch, image), (height, width), answers, truths) if answers else None
