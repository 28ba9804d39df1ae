"""One image with its prompts and answers, before batching, and the batching."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.views import View
from pixel_llm.structures import Batch, Prompts, Reference, Targets, VisualPrompts

WHOLE_IMAGE = (0.0, 0.0, 1.0, 1.0)


@dataclass
class VisualPrompt:
    """A region that questions about an image can name.

    symbol: the number K of its <PromptK>.  mask: bool[h, w] over the view's pixels.
    """

    symbol: int
    mask: Tensor


@dataclass
class Question:
    """A prompt and its answer, in words, as a mask, or as attributes.

    tokens: <bos> .. </s>.  boxes: float[T, 4] in the view's [0, 1], NaN for a token without a location.
    prompt_box: x0 y0 x1 y1 in the view's [0, 1].  context: tokens of the prompt's text.
    points: clicks x y label in the view's [0, 1], label 1 on the object and 0 beside it; in place of the box.
    mask: bool[h, w] over the view's pixels.  labels: an index for each kind of attribute, -1 where unknown.
    answer_masks: bool[h, w] likewise for each mask token of the answer, in order; in place of `mask`.
    visual_prompts: regions that are marked in the image for it.
    """

    reference: Reference
    tokens: list[int] = field(default_factory=list)
    boxes: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 4)))
    context: list[int] = field(default_factory=list)
    prompt_box: tuple[float, float, float, float] = WHOLE_IMAGE
    points: list[tuple[float, float, int]] = field(default_factory=list)
    mask: Tensor | None = None
    labels: list[int] = field(default_factory=list)
    answer_masks: list[Tensor] = field(default_factory=list)
    visual_prompts: list[VisualPrompt] = field(default_factory=list)


@dataclass
class Sample:
    """key, position, source: where it comes from.  repeated: only fills up the last batch of an evaluation.

    skipped: a line for each record that could not be used and that it stands for.
    features: by the name of a frozen encoder what it made of the image before, bfloat16[D, h, w].
    """

    key: str
    view: View
    questions: list[Question]
    position: int = 0
    source: str = ""
    repeated: bool = False
    skipped: list[str] = field(default_factory=list)
    features: dict[str, Tensor] = field(default_factory=dict)

    @property
    def visual_prompts(self) -> list[VisualPrompt]:
        """Those of all its questions, which share an image; ValueError where two are named alike."""
        named: dict[int, VisualPrompt] = {}
        for prompt in (prompt for question in self.questions for prompt in question.visual_prompts):
            if named.setdefault(prompt.symbol, prompt) is not prompt:
                raise ValueError(f"{self.key}: two regions are named <Prompt{prompt.symbol}>")
        return list(named.values())


def collate(samples: Sequence[Sample], canvas: int, pad_id: int, length_multiple: int = 1) -> Batch:
    """Stack samples into one batch with square canvases of `canvas` pixels; prompts stay flat and ragged.

    Texts are padded to the longest of the batch and on to a multiple of `length_multiple` tokens.
    """
    images = torch.zeros(len(samples), 3, canvas, canvas, dtype=samples[0].view.pixels.dtype)
    for image, sample in zip(images, samples, strict=True):
        h, w = sample.view.pixels.shape[-2:]
        image[:, :h, :w] = sample.view.pixels
    questions = [(i, q) for i, sample in enumerate(samples) for q in sample.questions]
    answered = [mask for _, q in questions for mask in q.answer_masks]
    contexts, labels = [q.context for _, q in questions], [q.labels for _, q in questions]
    prompts = Prompts(
        image_index=torch.tensor([i for i, _ in questions], dtype=torch.long),
        boxes=torch.tensor([q.prompt_box for _, q in questions], dtype=torch.float32).view(len(questions), 4),
        context=_pad(contexts, pad_id, length_multiple) if any(contexts) else None,
        **_points([q.points for _, q in questions]),
    )
    return Batch(
        keys=[s.key for s in samples],
        positions=[s.position for s in samples],
        images=images,
        sizes=torch.tensor([list(s.view.pixels.shape[-2:]) for s in samples]),
        original_sizes=torch.tensor([list(s.view.original_size) for s in samples]),
        prompts=prompts,
        targets=_targets([q for _, q in questions], pad_id, length_multiple),
        references=[None if samples[i].repeated else q.reference for i, q in questions],
        sources=[s.source for s in samples],
        masks=_masks(answered or [q.mask for _, q in questions], canvas),
        labels=_pad(labels, -1) if any(labels) else None,
        skipped=[line for s in samples for line in s.skipped],
        features={name: torch.stack([s.features[name] for s in samples]) for name in samples[0].features},
        visual_prompts=_visual_prompts(samples, canvas),
    )


def _visual_prompts(samples: Sequence[Sample], canvas: int) -> VisualPrompts | None:
    prompts = [(i, prompt) for i, sample in enumerate(samples) for prompt in sample.visual_prompts]
    masks = _masks([prompt.mask for _, prompt in prompts], canvas)
    if masks is None:
        return None
    image_index = torch.tensor([i for i, _ in prompts], dtype=torch.long)
    return VisualPrompts(image_index, torch.tensor([p.symbol for _, p in prompts], dtype=torch.long), masks)


def _targets(questions: Sequence[Question], pad_id: int, length_multiple: int) -> Targets | None:
    if not any(q.tokens for q in questions):
        return None
    tokens = _pad([q.tokens for q in questions], pad_id, length_multiple)
    boxes = torch.full((*tokens.shape, 4), float("nan"))
    for row, question in zip(boxes, questions, strict=True):
        row[: len(question.boxes)] = torch.from_numpy(question.boxes)
    located = ~boxes.isnan().any(-1)
    return Targets(tokens, boxes.nan_to_num().unflatten(-1, (2, 2)), located)


def _points(clicks: Sequence[Sequence[tuple[float, float, int]]]) -> dict[str, Tensor]:
    """`points` and `point_labels` of `Prompts`, padded by label -1; nothing where no question has clicks."""
    most = max(map(len, clicks), default=0)
    if not most:
        return {}
    padded = torch.tensor([[*row, *[(0.0, 0.0, -1)] * (most - len(row))] for row in clicks], dtype=torch.float32)
    return {"points": padded[..., :2], "point_labels": padded[..., 2].long()}


def _masks(masks: Sequence[Tensor | None], canvas: int) -> Tensor | None:
    if all(mask is None for mask in masks):
        return None
    out = torch.zeros(len(masks), canvas, canvas, dtype=torch.bool)
    for target, mask in zip(out, masks, strict=True):
        if mask is not None:
            target[: mask.shape[0], : mask.shape[1]] = mask
    return out


def _pad(rows: Sequence[Sequence[int]], value: int, multiple: int = 1) -> Tensor:
    longest = max(map(len, rows))
    out = torch.full((len(rows), -(-longest // multiple) * multiple), value, dtype=torch.long)
    for target, row in zip(out, rows, strict=True):
        target[: len(row)] = torch.tensor(row, dtype=torch.long)
    return out
