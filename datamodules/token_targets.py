"""Where each token of a caption is: from spoken words and a mouse trace to two corners per token.

Two rules. By interval (the paper, footnote 2): a token gets the trace points drawn while its own word was spoken,
and its location is the two corners that tightly bound them. By rank (the published code): tokens and utterances are
both numbered, and a token takes the utterance at the same fraction of the caption, whatever the words are; the
utterance's corners bound 16 equally spaced samples of the interpolated trace.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Span = tuple[int, int]
Interval = tuple[float, float]

_SAMPLES_PER_UTTERANCE = 16


def word_boxes(trace: Floats, intervals: Sequence[Interval | None]) -> Floats:
    """float[N, 4]: x0 y0 x1 y1 that bound the trace within each interval, clipped to [0, 1]; NaN where there is none.

    trace: float[M, 3] of x, y in [0, 1] and t in seconds, sorted by t.  intervals: seconds, both ends included.
    """
    boxes = np.full((len(intervals), 4), np.nan)
    timed = [i for i, interval in enumerate(intervals) if interval is not None]
    if not timed or not len(trace):
        return boxes
    start, stop = np.array([intervals[i] for i in timed], float).T
    first = np.searchsorted(trace[:, 2], start, side="left")
    last = np.searchsorted(trace[:, 2], stop, side="right")
    drawn = last > first
    edges = np.stack([first[drawn], last[drawn]], axis=1).ravel()
    points = np.concatenate([trace[:, :2], trace[-1:, :2]])  # an interval may end behind the last point
    if len(edges):
        low = np.minimum.reduceat(points, edges)[::2]
        high = np.maximum.reduceat(points, edges)[::2]
        boxes[np.asarray(timed)[drawn]] = np.clip(np.concatenate([low, high], axis=1), 0, 1)
    return boxes


def words_of_tokens(tokens: Sequence[Span], words: Sequence[Span]) -> list[int]:
    """For each token's characters the index of the word that it shares most of them with; -1 for none.

    words: increasing, not overlapping.
    """
    out, word = [], 0
    for begin, end in tokens:
        while word < len(words) and words[word][1] <= begin:
            word += 1
        best, shared = -1, 0
        for candidate in range(word, len(words)):
            if words[candidate][0] >= end:
                break
            overlap = min(end, words[candidate][1]) - max(begin, words[candidate][0])
            if overlap > shared:
                best, shared = candidate, overlap
        out.append(best)
    return out


def boxes_by_interval(owners: Sequence[int], boxes: Floats) -> Floats:
    """float[T, 4]: the box of each token's own word (float[N, 4]), NaN for a token without one.

    owners: each token's word, see `words_of_tokens`.
    """
    return np.concatenate([boxes, np.full((1, 4), np.nan)])[owners]


def boxes_by_rank(num_tokens: int, utterance_boxes: Floats) -> Floats:
    """float[T, 4]: the published rule. utterance_boxes: float[U, 4] of the valid utterances, in order.

    Token i of T (rank (i + 1) / T, stretched to the utterances' range) takes the utterance with the nearest rank
    (u + 1) / U; ties go to the earlier one. A cut caption is stretched over the whole narrative.
    """
    if not len(utterance_boxes):
        return np.full((num_tokens, 4), np.nan)
    return utterance_boxes[utterances_by_rank(num_tokens, len(utterance_boxes))]


def utterances_by_rank(num_tokens: int, num_utterances: int) -> NDArray[np.int64]:
    """int[T]: the utterance that the published rule gives each token."""
    utterances = np.arange(1, num_utterances + 1) / num_utterances
    tokens = np.arange(1, num_tokens + 1) / max(num_tokens, 1)
    tokens = utterances[0] + tokens * (utterances[-1] - utterances[0])
    return np.argmin((tokens[:, None] - utterances[None, :]) ** 2, axis=1)


def utterance_boxes(trace: Floats, intervals: Sequence[Interval]) -> tuple[Floats, Floats]:
    """Centres float[U, 2] and boxes float[U, 4] of utterances as the published converter computes them, unclipped.

    Sixteen equally spaced times in each interval are read off the interpolated trace (extrapolated outside it); the
    centre is their average over time by the trapezoid rule. trace as in `word_boxes`, with at least two points.
    """
    start, stop = np.array(intervals, float).reshape(-1, 2).T
    times = np.linspace(start, stop, _SAMPLES_PER_UTTERANCE, axis=1)
    points = np.stack([_interpolate(times, trace[:, 2], trace[:, axis]) for axis in (0, 1)], axis=-1)
    duration = (stop - start)[:, None]
    weighted = ((points[:, 1:] + points[:, :-1]) / 2 * np.diff(times, axis=1)[..., None]).sum(1)
    centres = np.where(duration < 1e-5, points.mean(1), weighted / np.maximum(duration, 1e-5))
    return centres, np.concatenate([points.min(1), points.max(1)], axis=1)


def valid_utterances(texts: Sequence[str], centres: Floats) -> NDArray[np.bool_]:
    """The published filter: utterances that say something and whose centre is off both image borders at 0."""
    said = np.array([bool(text.strip()) for text in texts], bool)
    return said & (centres > 1e-5).all(1)


def _interpolate(at: Floats, t: Floats, values: Floats) -> Floats:
    """Piecewise linear through (t, values), continued straight beyond both ends."""
    segment = np.clip(np.searchsorted(t, at, side="right") - 1, 0, len(t) - 2)
    width = t[segment + 1] - t[segment]
    slope = (values[segment + 1] - values[segment]) / np.where(width == 0, 1.0, width)
    return values[segment] + slope * (at - t[segment])
