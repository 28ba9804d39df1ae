"""What the answers of a single transformer mean, by the kind of data that asks, and how they are scored."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from pixel_llm.coordinates import Box, box_01_to_original_px
from pixel_llm.core.decoding import Decoded
from pixel_llm.metrics.captions import CaptionMetrics
from pixel_llm.metrics.distributed import gather_rows
from pixel_llm.metrics.referring import ReferringMetrics
from pixel_llm.metrics.referring_scores import expressions_note, referring_table
from pixel_llm.metrics.region_captions import SINGLE_REFERENCE, RegionCaptionMetrics
from pixel_llm.pixel_sail.pixel_sail import PixelSail, SailImages
from pixel_llm.run_lengths import mask_box
from pixel_llm.structures import Batch, Prediction, ReferringPrediction, RegionPrediction
from pixel_llm.tables import figures_table, named_figures
from pixel_llm.tasks.base import prompt_keys
from pixel_llm.tasks.masks import mask_rles

Figures = dict[str, float]
_NOWHERE = -1.0e4  # a logit below that of any mask


class Answers(ABC):
    """Base class: the answers to one kind of data."""

    def __init__(self) -> None:
        self.metrics: Any = None

    @abstractmethod
    def read(self, core: PixelSail, images: SailImages, batch: Batch, decoded: Decoded, chat: Any) -> list[Any]:
        """A prediction for each prompt of the batch, in pixels of the original image.

        chat: the data's `ChatText`.
        """

    @abstractmethod
    def update(self, batch: Batch, predictions: Sequence[Any]) -> None:
        """Keep what the metrics of the epoch need."""

    @abstractmethod
    def figures(self, source: Any) -> tuple[Figures, str]:
        """Those of the epoch by name, which are then forgotten, and a table of them; all processes must ask.

        source: the data module that was evaluated on.
        """


class SegmentedAnswers(Answers):
    """Masks of expressions: all [SEG] of an answer together, and the box around them; silence is an empty mask."""

    def __init__(self) -> None:
        super().__init__()
        self.metrics = ReferringMetrics()

    def read(
        self, core: PixelSail, images: SailImages, batch: Batch, decoded: Decoded, chat: Any
    ) -> list[ReferringPrediction]:
        logits = answer_masks(core, images, batch.prompts.image_index, decoded)
        index = batch.prompts.image_index
        masks = mask_rles(logits[:, None], batch.sizes[index], batch.original_sizes[index], covered(core, images))
        queries = [reference.caption if reference else "" for reference in batch.references]
        said = [chat.decode(tokens) for tokens in decoded.tokens.tolist()]
        found = zip(prompt_keys(batch), queries, masks, said, strict=True)
        return [ReferringPrediction(key, query, mask_box(m), m, answer=words) for key, query, m, words in found]

    def update(self, batch: Batch, predictions: Sequence[ReferringPrediction]) -> None:
        sizes = batch.original_sizes[batch.prompts.image_index].tolist()
        self.metrics.update(batch.references, predictions, sizes)

    def figures(self, source: Any) -> tuple[Figures, str]:
        empty = sum(row.nothing is True for row in gather_rows(self.metrics.rows).values())
        scores = self.metrics.compute()
        self.metrics.reset()
        note = expressions_note(getattr(source, "evaluation_expressions", None))
        return named_figures(scores) | {"empty_masks": float(empty)}, referring_table(scores, note)


class DescribedRegions(Answers):
    """Captions of the regions that questions name."""

    def __init__(self) -> None:
        super().__init__()
        self.metrics = RegionCaptionMetrics()

    def read(
        self, core: PixelSail, images: SailImages, batch: Batch, decoded: Decoded, chat: Any
    ) -> list[RegionPrediction]:
        sizes = batch.original_sizes[batch.prompts.image_index].tolist()
        captions = [chat.words(tokens) for tokens in decoded.tokens.tolist()]
        rows = zip(prompt_keys(batch), batch.references, captions, decoded.scores.tolist(), sizes, strict=True)
        return [RegionPrediction(key, _place(r, size), caption, score) for key, r, caption, score, size in rows]

    def update(self, batch: Batch, predictions: Sequence[RegionPrediction]) -> None:
        for prediction, reference in zip(predictions, batch.references, strict=True):
            if reference is not None and reference.targets:  # else the image has no region
                self.metrics.update([reference.key], [prediction.caption], [[reference.caption]])

    def figures(self, source: Any) -> tuple[Figures, str]:
        scores = self.metrics.compute()
        self.metrics.reset()
        return named_figures(scores), figures_table(scores, f"protocol: {SINGLE_REFERENCE}")


class PlainAnswers(Answers):
    """What is said in a conversation."""

    def __init__(self) -> None:
        super().__init__()
        self.metrics = CaptionMetrics()

    def read(self, core: PixelSail, images: SailImages, batch: Batch, decoded: Decoded, chat: Any) -> list[Prediction]:
        said = (chat.decode(tokens) for tokens in decoded.tokens.tolist())
        rows = zip(prompt_keys(batch), said, decoded.scores.tolist(), strict=True)
        return [Prediction(key, caption, [], score) for key, caption, score in rows]

    def update(self, batch: Batch, predictions: Sequence[Prediction]) -> None:
        for prediction, reference in zip(predictions, batch.references, strict=True):
            if reference is not None:
                self.metrics.update([reference.key], [prediction.caption], [[reference.caption]])

    def figures(self, source: Any) -> tuple[Figures, str]:
        figures = {name: float(value) for name, value in self.metrics.compute().items()}
        self.metrics.reset()
        return figures, ""


def answer_masks(core: PixelSail, images: SailImages, image_index: Tensor, decoded: Decoded) -> Tensor:
    """Mask logits float[P, h, w] on the canvas: the union of all [SEG] of each answer, negative where there is none."""
    features = core.mask_features(images)
    rows, masks = token_masks(core, features, image_index, decoded)
    out = masks.new_full((len(decoded.tokens), *features.shape[-2:]), _NOWHERE)
    return out.scatter_reduce(0, rows[:, None, None].expand_as(masks), masks, "amax")


def token_masks(core: PixelSail, features: Tensor, image_index: Tensor, decoded: Decoded) -> tuple[Tensor, Tensor]:
    """The answer of each [SEG], int[S], answer by answer and in their order, and its mask logits float[S, h, w].

    features: of `PixelSail.mask_features`.
    """
    tokens = decoded.tokens[:, : decoded.hidden.shape[1]]  # those that were read
    rows, columns = (tokens == core.special.seg).nonzero(as_tuple=True)
    return rows, core.masks(features, decoded.hidden[rows, columns], image_index[rows])


def covered(core: PixelSail, images: SailImages) -> tuple[int, int]:
    """(height, width) in pixels of what the patches of a canvas cover, the next multiples of their side."""
    patch = core.patch_embedding.patch
    return images.grid[0] * patch, images.grid[1] * patch


def _place(reference: Any, size: Sequence[int]) -> Box:
    found = reference.targets if reference is not None else []
    return box_01_to_original_px(found[0], (size[0], size[1])) if found else (0.0, 0.0, 0.0, 0.0)


KINDS: dict[str, type[Answers]] = {
    "referring_dialogues": SegmentedAnswers,
    "region_dialogues": DescribedRegions,
    "conversation_dialogues": PlainAnswers,
}
