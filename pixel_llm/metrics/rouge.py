"""ROUGE-L (Lin 2004) of a caption, as the COCO caption protocol computes it."""

from collections.abc import Sequence

_BETA = 1.2  # how much more recall counts than precision


def rouge_l(caption: str, references: Sequence[str]) -> float:
    """F-measure of the longest common subsequence, in [0, 1]; the score of a set is the mean over captions.

    The best precision and the best recall over references count, even where they come from different ones.

    caption, references: tokenized texts, split at single spaces, so that an empty text is one empty word and
    two empty texts agree; at least one reference.
    """
    words, others = caption.split(" "), [reference.split(" ") for reference in references]
    common = [longest_common_subsequence(words, other) for other in others]
    precision = max(common) / len(words)
    recall = max(length / len(other) for length, other in zip(common, others, strict=True))
    if precision == 0 or recall == 0:
        return 0.0
    return (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision)


def longest_common_subsequence(left: Sequence[str], right: Sequence[str]) -> int:
    """Length of the longest common subsequence, bit-parallel over `left` (Hyyrö 2004): fast for long texts too."""
    positions: dict[str, int] = {}
    for index, word in enumerate(left):
        positions[word] = positions.get(word, 0) | 1 << index
    mask = (1 << len(left)) - 1
    row = mask
    for word in right:
        matches = row & positions.get(word, 0)
        row = (row + matches | row - matches) & mask
    return len(left) - row.bit_count()
