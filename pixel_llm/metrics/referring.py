"""Referring expressions over a whole data set: precision of boxes and overlap of masks, split by split."""

from collections.abc import Sequence

from torchmetrics import Metric

from pixel_llm.coordinates import box_01_to_original_px
from pixel_llm.metrics.distributed import gather_rows
from pixel_llm.metrics.referring_scores import Answer, Row, Scores, Truth, compare, score
from pixel_llm.structures import Reference, ReferringPrediction


class ReferringMetrics(Metric):
    """Collects one comparison per expression and makes the figures of every split from them.

    `compute` returns the figures of `referring_scores.score` by split; it is empty before the first expression.
    Expressions are weighted alike, whatever image or object they belong to. One that several ranks (or the padding
    of a distributed sampler) bring counts once. All ranks must call `compute`.
    """

    full_state_update = False
    higher_is_better = True

    def __init__(self, empty_target: float = 1.0) -> None:
        """empty_target: the mask IoU of an expression that means nothing and of which that is said."""
        super().__init__()
        self.empty_target = empty_target
        self.rows: dict[str, Row] = {}

    def update(
        self,
        references: Sequence[Reference | None],
        predictions: Sequence[ReferringPrediction],
        sizes: Sequence[Sequence[int]],
    ) -> None:
        """references: P truths, as the whole image is seen; None is left out.  predictions: P answers.
        sizes: P times height and width of the original image.

        Raises ValueError, naming the expression, for a mask of another size than its image.
        """
        for reference, prediction, (height, width) in zip(references, predictions, sizes, strict=True):
            if reference is None or reference.key in self.rows:
                continue
            truth = truth_of(reference, (int(height), int(width)))
            try:
                self.rows[reference.key] = compare(truth, Answer(prediction.box, prediction.mask))
            except ValueError as error:
                raise ValueError(f"expression {reference.key!r}: {error}") from None

    def forward(
        self,
        references: Sequence[Reference | None],
        predictions: Sequence[ReferringPrediction],
        sizes: Sequence[Sequence[int]],
    ) -> None:
        """Updates only: the figures of one batch would mean little."""
        self.update(references, predictions, sizes)

    def compute(self) -> Scores:
        return score(gather_rows(self.rows).values(), self.empty_target)

    def reset(self) -> None:
        super().reset()
        self.rows = {}


def truth_of(reference: Reference, size: tuple[int, int]) -> Truth:
    """What an expression means, in pixels of the original image of (height, width)."""
    boxes = [box_01_to_original_px(box, size) for box in reference.targets]
    return Truth(reference.split, reference.kind, size, boxes, reference.mask)
