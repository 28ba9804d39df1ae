"""Shows fixed validation images with their captions and traces, prediction beside truth."""

from PIL import Image

from callbacks.pictures import Pictures, shown_pixels
from pixel_llm.coordinates import box_01_to_original_px
from pixel_llm.drawing.traces import Trace, draw_traces
from pixel_llm.structures import Batch, Prediction, Reference, Word


class TracePictures(Pictures):
    """Draws the answer to the first prompt of each image.  Arguments: see `Pictures`."""

    tag = "traces"
    sources = ("localized_narratives",)

    def draw(self, batch: Batch, image: int, prompts: list[int], predicted: list[Prediction]) -> Image.Image | None:
        if not prompts:
            return None
        reference = batch.references[prompts[0]]
        pixels = shown_pixels(batch, image)
        traces = [Trace("prediction", [_to_shown(word, batch, image) for word in predicted[prompts[0]].words])]
        if reference is not None:
            traces.append(Trace("truth", true_words(reference, (pixels.shape[0], pixels.shape[1]))))
        return draw_traces(pixels, traces)


def true_words(reference: Reference, size: tuple[int, int]) -> list[Word | str]:
    """The words of a reference with their boxes in pixels of an image of (height, width)."""
    texts = [reference.caption[begin:end] for begin, end in reference.words]
    pairs = zip(texts, reference.boxes, strict=True)
    return [text if box is None else Word(text, box_01_to_original_px(box, size)) for text, box in pairs]


def _to_shown(word: Word, batch: Batch, image: int) -> Word:
    """A word in pixels of the original image -> of the canvas that is shown."""
    height, width = (batch.sizes[image] / batch.original_sizes[image]).tolist()
    x0, y0, x1, y1 = word.box
    return Word(word.text, (x0 * width, y0 * height, x1 * width, y1 * height))
