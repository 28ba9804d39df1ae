"""The typed values that travel between the rooms of the house. They hold tensors and carry no logic.

Letters used for shapes everywhere:

    B images in a batch          P prompts in a batch, over all images, flat and ragged
    Q learned query tokens       T caption tokens, <bos> and </s> included
    C context (prompt text) tokens                         R regions, over all images, flat and ragged
    H, W a grid or a canvas      D width of a feature      V vocabulary

Coordinates inside a batch are xy, normalised to [0, 1] by the real (unpadded) extent of the image;
files and people see pixels of the original image (`pixel_llm/coordinates.py` converts).
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor


@dataclass
class Prompts:
    """What is asked about each image.

    image_index: int[P], the image of each prompt, non-decreasing.
    boxes: float[P, 4], x0 y0 x1 y1 in [0, 1]; the whole image is 0 0 1 1.
    context: int[P, C] token ids of the prompt's text, padded at the end; None when no prompt has a text.
    points: float[P, K, 2], clicks xy in [0, 1]; where they are given, the prompts are the clicks and not the boxes.
    point_labels: int[P, K], 1 for a click on the object, 0 for one beside it, -1 for none.
    """

    image_index: Tensor
    boxes: Tensor
    context: Tensor | None = None
    points: Tensor | None = None
    point_labels: Tensor | None = None


@dataclass
class Targets:
    """What should be answered to each prompt.

    tokens: int[P, T], <bos> w1 .. wn </s>, padded at the end.
    locations: float[P, T, 2, 2], per token two xy points in [0, 1]: the corners that tightly bound the
        trace of the token's word. Undefined where `located` is False.
    located: bool[P, T], the token has a location.
    """

    tokens: Tensor
    locations: Tensor
    located: Tensor


@dataclass
class VisualPrompts:
    """Regions that questions about an image can name, each by a symbol of the vocabulary.

    image_index: int[R], the image of each region, non-decreasing.
    symbols: int[R], the number K of the region's <PromptK>; no two of an image are the same.
    masks: bool[R, H, W], the region's pixels on the canvas.
    """

    image_index: Tensor
    symbols: Tensor
    masks: Tensor


@dataclass
class Mention:
    """A stretch of a caption that names an object.

    begin, end: character span in the caption.  box: x0 y0 x1 y1 of the object, in [0, 1].
    """

    begin: int
    end: int
    box: tuple[float, float, float, float]


@dataclass
class Reference:
    """The ground truth of one prompt as a metric or a picture needs it; lists and numbers, no tensors.

    key: names the sample and the prompt in it, unique in the data set.
    caption: the text; of a referring expression, the expression.
    words: character span (begin, end) of each word of the caption.
    boxes: x0 y0 x1 y1 in [0, 1] of each word's trace, None for a word without one.
    mentions: the objects that the caption names, where the data say so.
    token_words: for each target token the index of its word, -1 for none.
    alternatives: further reference captions of the same image.
    split: name of the part of a data set that figures are reported for.  kind: of the expression, likewise.
    targets: x0 y0 x1 y1 in [0, 1] of the objects that an expression refers to: one, several, or none; of a region
        its own box.
    mask: COCO run-length encoding of their union at the size of the original image, where the data have one.
    masks: of each of them, where several are asked for one by one.
    options: among which the caption, an answer, is to be chosen.
    image: names the image, unique in the data set, where something is said of the image as a whole.
    """

    key: str
    caption: str
    words: list[tuple[int, int]] = field(default_factory=list)
    boxes: list[tuple[float, float, float, float] | None] = field(default_factory=list)
    mentions: list[Mention] = field(default_factory=list)
    token_words: list[int] = field(default_factory=list)
    alternatives: list[str] = field(default_factory=list)
    split: str = ""
    kind: str = ""
    targets: list[tuple[float, float, float, float]] = field(default_factory=list)
    mask: dict[str, Any] | None = None
    masks: list[dict[str, Any]] = field(default_factory=list)
    options: list[str] = field(default_factory=list)
    image: str = ""

    @classmethod
    def from_plain(cls, content: dict[str, Any]) -> "Reference":
        """Undo `dataclasses.asdict`."""
        return cls(**content | {"mentions": [Mention(**mention) for mention in content["mentions"]]})


@dataclass
class Batch:
    """One step's worth of images with their prompts.

    keys: B names, for error messages.  positions: B places in the epoch's order.
    images: uint8 or float32[B, 3, H, W], RGB in 0..255, resized with their shape kept, zero beyond it.
    sizes: int[B, 2], height and width of the real part of each canvas.
    original_sizes: int[B, 2], height and width of the images as they came.
    references: one for each prompt; None for a repeated sample that only fills up the last batch.
    sources: B names of the data sets that the images come from.
    masks: bool[P, H, W], the visible pixels of each prompt's object on the canvas; where answers have mask tokens,
        bool[S, H, W], those of each of these tokens, answer by answer.
    visual_prompts: regions that the questions can name; None where they name none.
    labels: int[P, A], an index for each of A kinds of attributes of the object, -1 where unknown.
    skipped: a line for each record that could not be used, with file, key and reason; another one took its place.
    features: by the name of a frozen encoder what it makes of the images, bfloat16[B, D, h, w], where it was computed
        before; that encoder then need not run.
    """

    keys: list[str]
    positions: list[int]
    images: Tensor
    sizes: Tensor
    original_sizes: Tensor
    prompts: Prompts
    targets: Targets | None = None
    references: list[Reference | None] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    masks: Tensor | None = None
    labels: Tensor | None = None
    skipped: list[str] = field(default_factory=list)
    features: dict[str, Tensor] = field(default_factory=dict)
    visual_prompts: VisualPrompts | None = None

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """The same batch with its tensors on a device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Batch":
        """The same batch with its tensors in page-locked memory."""
        return self._map(lambda tensor: tensor.pin_memory())

    def plain(self) -> dict[str, Any]:
        """Dictionaries, lists and tensors on the CPU, which a file can hold and nothing is executed to read."""
        return asdict(self.to("cpu"))

    @classmethod
    def from_plain(cls, content: dict[str, Any]) -> "Batch":
        """Undo `plain`."""
        batch = cls(**content)
        batch.prompts = Prompts(**content["prompts"])
        batch.targets = None if content["targets"] is None else Targets(**content["targets"])
        if content["visual_prompts"] is not None:
            batch.visual_prompts = VisualPrompts(**content["visual_prompts"])
        batch.references = [None if row is None else Reference.from_plain(row) for row in content["references"]]
        return batch

    def _map(self, function: Callable[[Tensor], Tensor]) -> "Batch":
        changed: dict[str, Any] = {}
        for entry in fields(self):
            value = getattr(self, entry.name)
            if isinstance(value, Tensor):
                changed[entry.name] = function(value)
            elif isinstance(value, Prompts | Targets | VisualPrompts):
                inner: dict[str, Any] = {f.name: getattr(value, f.name) for f in fields(value)}
                mapped = {name: function(v) if isinstance(v, Tensor) else v for name, v in inner.items()}
                changed[entry.name] = type(value)(**mapped)
        changed["features"] = {name: function(values) for name, values in self.features.items()}
        return replace(self, **changed)


@dataclass
class ImageFeatures:
    """Encoded images; computed once however many prompts an image has.

    fused: float[B, D, H, W], the encoders' maps on the largest grid, concatenated.
    sam: float[B, D', H', W'], the frozen encoder's own map, for a mask decoder.
    sizes: int[B, 2], height and width of the real part of the canvas.
    canvas: (height, width) of the padded images.
    """

    fused: Tensor
    sam: Tensor
    sizes: Tensor
    canvas: tuple[int, int]


@dataclass
class Regions:
    """Boxes in images, flat and ragged; true ones, proposals, or detections.

    image_index: int[R], the image of each box, non-decreasing.
    boxes: float[R, 4], x0 y0 x1 y1 in [0, 1], clipped to it; a true box without an area is none.
    scores: float[R] in [0, 1], descending within an image; None for true boxes.
    """

    image_index: Tensor
    boxes: Tensor
    scores: Tensor | None = None


@dataclass
class DetectorOutputs:
    """What a detector reads off images, before any box is chosen.

    pyramid: L maps float[B, D, h, w], from fine to coarse.  The N cells below are those of all levels, level by
        level and row by row.
    heat_map: float[B, N], logits of a cell being the centre of an object.
    distances: float[B, N, 4], from the middle of the cell to the left, top, right and bottom of the object, in
        strides of the level; not negative.
    centers: float[N, 2], xy of the middles of the cells in pixels of the canvas.
    levels: int[N], the level of each cell.
    strides: float[L, 2], width and height of a level's cells in pixels of the canvas.
    level_ranges: float[L, 2], smallest and largest half diagonal, in pixels of the canvas, of a level's objects.
    sizes: int[B, 2], height and width of the real part of the canvas.  canvas: (height, width) of the padded images.
    """

    pyramid: list[Tensor]
    heat_map: Tensor
    distances: Tensor
    centers: Tensor
    levels: Tensor
    strides: Tensor
    level_ranges: Tensor
    sizes: Tensor
    canvas: tuple[int, int]


@dataclass
class RoISamples:
    """Boxes to learn from: proposals and true ones, those that meet a true box first within each image.

    image_index: int[S], the image of each box, non-decreasing.  boxes: float[S, 4], x0 y0 x1 y1 in [0, 1].
    matched: int[S], the row of the true box that it meets, -1 for none.
    class_logits: float[S, 2], background and object; None without the second stage, as the next two.
    deltas: float[S, 4], the predicted correction of the box.
    target_deltas: float[S, 4], the right one, 0 without a match.
    """

    image_index: Tensor
    boxes: Tensor
    matched: Tensor
    class_logits: Tensor | None = None
    deltas: Tensor | None = None
    target_deltas: Tensor | None = None


@dataclass
class TokenOutputs:
    """What the model says with the true caption as its input (teacher forcing).

    logits: float[P, T, V]; row t predicts token t + 1.
    locations: float[P, T, 2, 2] in [0, 1], not clipped; row t belongs to token t, row 0 (<bos>) is void.
    """

    logits: Tensor
    locations: Tensor


@dataclass
class Generation:
    """What the model says on its own.

    tokens: int[P, T], <bos> w1 .. wn </s>, padded at the end.
    locations: float[P, T, 2, 2], row t belongs to token t, as in `TokenOutputs`.
    scores: float[P], log-probability of the words, normalised as the decoding rule says.
    """

    tokens: Tensor
    locations: Tensor
    scores: Tensor


@dataclass
class Localization:
    """Where in its image the thing is that each query names, and what a mask is made from.

    corners: float[P, 2, 2], two xy points in [0, 1] as regressed.  boxes: float[P, 4], x0 y0 x1 y1 that they span;
        neither is clipped.
    visual: float[P, Q, D'], the visual prefix (see `pixel_llm.core.language_model.Prefix`).
    hidden: float[P, T, D], the state after reading each token of the query.  valid: bool[P, T], False in padding.
    """

    corners: Tensor
    boxes: Tensor
    visual: Tensor
    hidden: Tensor
    valid: Tensor


@dataclass
class Word:
    """A word that the model said about an image, with the pixels it means.

    box: x0 y0 x1 y1 in pixels of the original image: the two predicted points as corners.
    """

    text: str
    box: tuple[float, float, float, float]


@dataclass
class Prediction:
    """A caption with the place of every word, for a person or a file."""

    key: str
    caption: str
    words: list[Word]
    score: float


@dataclass
class ReferringPrediction:
    """What a query was found to mean, for a person or a file.

    key: of the expression.  query: its text.  box: x0 y0 x1 y1 in pixels of the original image.
    mask: COCO run-length encoding (size, counts) at the size of the original image; None from a model without masks.
    score: the expected IoU of the mask, in [0, 1]; None where the model does not guess it.
    answer: what was said, mask tokens included; None from a model that says nothing.
    """

    key: str
    query: str
    box: tuple[float, float, float, float]
    mask: dict[str, Any] | None = None
    score: float | None = None
    answer: str | None = None


@dataclass
class RegionPrediction:
    """What was said about a part of an image, for a person or a file.

    key: of the region that was asked about, or of the image whose objects were found.
    box: x0 y0 x1 y1 in pixels of the original image.
    score: of a detected object, in [0, 1]; of a box that was given, the caption's log-probability.
    """

    key: str
    box: tuple[float, float, float, float]
    caption: str
    score: float


@dataclass
class AnswerPrediction:
    """What was answered to a question about regions of an image, for a person or a file.

    key: of the question.  answer: the words, mask tokens included.
    masks: COCO run-length encodings at the size of the original image, one for each mask token, in their order.
    forced_masks: where there were none, those of a second attempt whose answer was made to begin with a mask token.
    """

    key: str
    answer: str
    masks: list[dict[str, Any]] = field(default_factory=list)
    forced_masks: list[dict[str, Any]] = field(default_factory=list)
