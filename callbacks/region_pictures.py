"""Shows fixed validation images with what was said of their regions, and the truth where it was said otherwise."""

from PIL import Image

from callbacks.pictures import Pictures, shown_pixels
from pixel_llm.drawing.captioned_boxes import CaptionedBox, View, draw_captioned_boxes
from pixel_llm.structures import Batch, Reference, RegionPrediction

_REGIONS = 16  # of an image


class RegionPictures(Pictures):
    """Draws the first 16 regions of each image, by the outline of their masks where the data have them.

    Arguments: see `Pictures`.
    """

    tag = "regions"
    sources = ("regions", "region_dialogues")

    def draw(
        self, batch: Batch, image: int, prompts: list[int], predicted: list[RegionPrediction]
    ) -> Image.Image | None:
        asked = [(predicted[p], reference) for p in prompts if (reference := batch.references[p]) and reference.targets]
        boxes = [
            CaptionedBox(n, said.box, said.caption, _truth(said, true), mask=true.mask)
            for n, (said, true) in enumerate(asked[:_REGIONS], 1)
        ]
        right = sum(not box.note for box in boxes)
        height, width = batch.original_sizes[image].tolist()
        view = View(f"{right} of {len(boxes)} captions as in the data", boxes)
        return draw_captioned_boxes(shown_pixels(batch, image), (height, width), [view]) if boxes else None


def _truth(said: RegionPrediction, true: Reference) -> str:
    return "" if said.caption == true.caption else f"(truth: {true.caption})"
