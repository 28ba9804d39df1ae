"""The losses as pure functions of tensors.

Equation 4 of the paper: L = 1/n sum_i [ CE(w_i) + lambda * |p_i - p^_i| ], with label smoothing. The published
code differs in two ways, both kept: smoothing spreads over the V - 1 wrong words (not over all V), and the two
terms have one normalisation each (cross entropy over the supervised tokens, distance over the located tokens),
where the equation has one n for both; `trace_caption_loss` does either.

What a sum is divided by is counted over all processes (`mean_count`): averaged over the processes, loss and gradient
are those of one process with the whole batch, however the tokens are spread.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

Normalisation = Literal["joint", "separate"]
_alone = ContextVar("alone", default=False)


def smoothed_cross_entropy(logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """Cross entropy per token, float[...], with `smoothing` spread evenly over the V - 1 other words.

    logits: float[..., V].  targets: int[...].
    """
    logp = logits.float().log_softmax(-1)
    right = logp.gather(-1, targets[..., None])[..., 0]
    wrong = logp.sum(-1) - right
    return -(1 - smoothing) * right - smoothing / (logits.shape[-1] - 1) * wrong


def supervised_tokens(targets: Tensor, pad_id: int, eos_id: int) -> Tensor:
    """bool[P, T]: targets (int[P, T], without <bos>) that count: no padding, and no row of an empty caption."""
    return (targets != pad_id) & (targets[:, :1] != eos_id)


def mean_count(counted: Tensor) -> Tensor:
    """How many elements count, per process on average over all processes; all of them must call it.

    counted: bool, or ints that are such numbers already.
    float scalar, that of a single element in all where there is none: for use as a divisor.
    """
    count, processes = counted.sum().float(), 1
    if dist.is_available() and dist.is_initialized() and not _alone.get():
        processes = dist.get_world_size()
        dist.all_reduce(count)
    return count.clamp(min=1) / processes


def anywhere(found: Tensor) -> bool:
    """Whether any of bool[...] is true in any process; all of them must call it."""
    some = found.any().float()
    if dist.is_available() and dist.is_initialized() and not _alone.get():
        dist.all_reduce(some, dist.ReduceOp.MAX)
    return bool(some)


@contextmanager
def in_this_process_alone() -> Iterator[None]:
    """Within it `mean_count` asks no other process: for a loss that this one works out while the others do not."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def masked_mean(values: Tensor, counted: Tensor) -> Tensor:
    """The mean of the values that count (bool of the same shape); 0 where there is none."""
    return torch.where(counted, values, 0.0).sum() / mean_count(counted)


def caption_loss(logits: Tensor, tokens: Tensor, pad_id: int, eos_id: int, smoothing: float) -> Tensor:
    """Mean cross entropy of captions' words with label smoothing.

    logits: float[P, T, V], row t predicting token t + 1.  tokens: int[P, T], <bos> w1 .. wn </s> and padding.
    """
    words = tokens[:, 1:]
    return masked_mean(
        smoothed_cross_entropy(logits[:, :-1], words, smoothing), supervised_tokens(words, pad_id, eos_id)
    )


def location_distance(predicted: Tensor, truth: Tensor, canvas_scale: Tensor) -> Tensor:
    """Mean L1 over the points' coordinates in pixels of the canvas: float[P, T].

    predicted, truth: float[P, T, 2, 2] xy in [0, 1].  canvas_scale: float[P, 2], width and height of the real
    part of each prompt's canvas in pixels; the published code measures there (384 pixels, lambda 0.1).
    """
    return ((predicted - truth).abs() * canvas_scale[:, None, None, :]).mean((-1, -2))


@dataclass
class TraceCaptionLoss:
    """total is differentiable; words and locations are the two terms before weighting, in nats and in pixels."""

    total: Tensor
    words: Tensor
    locations: Tensor


def trace_caption_loss(
    cross_entropy: Tensor,
    supervised: Tensor,
    distance: Tensor,
    located: Tensor,
    location_weight: float,
    normalisation: Normalisation,
) -> TraceCaptionLoss:
    """Combine the two terms over all tokens of a batch.

    cross_entropy, distance: float[P, T].  supervised, located: bool[P, T], where each term counts.
    normalisation: "joint" divides both sums by the number of supervised tokens (Equation 4), "separate" each
    by its own count (published). A batch without such a token gives zero for that term, not NaN.
    """
    words = masked_mean(cross_entropy, supervised)
    location_count = mean_count(supervised if normalisation == "joint" else located)
    locations = torch.where(located, distance, 0.0).sum() / location_count
    return TraceCaptionLoss(words + location_weight * locations, words.detach(), locations.detach())


@dataclass
class MaskLoss:
    """total is differentiable; the others are its terms before weighting."""

    total: Tensor
    focal: Tensor
    dice: Tensor
    iou: Tensor


def mask_loss(logits: Tensor, predicted_iou: Tensor, truth: Tensor, valid: Tensor, real: Tensor) -> MaskLoss:
    """SAM's loss as published: 20 focal + dice of the best of M masks, and the squared error of its expected IoU.

    logits: float[P, M, h, w], resized to the canvas here.  predicted_iou: float[P, M].
    truth: bool[P, H, W] on the canvas.  valid: bool[P], prompts that count.
    real: bool[P, H, W], the unpadded part of each prompt's canvas; focal and only focal leaves the padding out.
    """
    logits = F.interpolate(logits.float(), truth.shape[-2:], mode="bilinear", align_corners=False)
    target = truth[:, None].float().expand_as(logits)
    focal = (focal_loss(logits, target) * real[:, None]).sum((-2, -1)) / real.sum((-2, -1))[:, None].clamp(min=1)
    dice = dice_loss(logits, target)
    actual = _iou(logits > 0, target > 0)
    score = 20 * focal + dice
    best = score.argmin(dim=1, keepdim=True)

    def mean(values: Tensor) -> Tensor:
        return masked_mean(values.gather(1, best)[:, 0], valid)

    iou = masked_mean(((predicted_iou - actual) ** 2).mean(1), valid)
    return MaskLoss(mean(score) + iou, mean(focal).detach(), mean(dice).detach(), iou.detach())


def focal_loss(logits: Tensor, target: Tensor, alpha: float = 0.5, gamma: float = 2.0) -> Tensor:
    """Sigmoid focal loss per element (Lin et al. 2017); target: float in {0, 1} of the same shape."""
    cross_entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    wrong = torch.where(target > 0, 1 - logits.sigmoid(), logits.sigmoid())
    weight = torch.where(target > 0, alpha, 1 - alpha)
    return weight * wrong**gamma * cross_entropy


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """1 - (2 sum pq + 1) / (sum p + sum q + 1) over the last two dimensions."""
    p = logits.sigmoid()
    return 1 - (2 * (p * target).sum((-2, -1)) + 1) / (p.sum((-2, -1)) + target.sum((-2, -1)) + 1)


def _iou(a: Tensor, b: Tensor) -> Tensor:
    intersection, union = (a & b).sum((-2, -1)), (a | b).sum((-2, -1))
    return intersection / union.clamp(min=1)
