"""PerBench over a whole data set, split by split."""

from collections.abc import Sequence

from torchmetrics import Metric

from pixel_llm.metrics.distributed import gather_rows, on_rank_zero, split_rows
from pixel_llm.metrics.perbench_scores import Answer, Mode, Row, Truth, perbench_figures
from pixel_llm.structures import AnswerPrediction, Reference


class PerBenchMetrics(Metric):
    """Collects answers to the questions of the three tasks and scores all of a split together.

    `compute` returns the figures of `perbench_figures` by split; it is empty before the first question. A question that
    several ranks (or the padding of a distributed sampler) bring counts once. All ranks must call `compute`; the
    scoring itself happens on rank 0.
    """

    full_state_update = False
    higher_is_better = True

    def __init__(self, mode: Mode = "strict") -> None:
        super().__init__()
        self.mode: Mode = mode
        self.rows: dict[str, Row] = {}

    def update(self, references: Sequence[Reference | None], answers: Sequence[AnswerPrediction]) -> None:
        """references: P truths whose `kind` is the task and whose keys begin with SPLIT/; None is left out.
        answers: P answers.

        Raises ValueError, naming the question, for a mask of another size than its image.
        """
        for reference, answer in zip(references, answers, strict=True):
            if reference is None:
                continue
            truth = Truth(reference.kind, reference.caption, reference.options, reference.masks)
            row = truth, Answer(answer.answer, answer.masks, answer.forced_masks)
            try:
                check_sizes(*row)
            except ValueError as error:
                raise ValueError(f"question {reference.key!r}: {error}") from None
            self.rows.setdefault(reference.key, row)

    def forward(self, references: Sequence[Reference | None], answers: Sequence[AnswerPrediction]) -> None:
        """Updates only: the figures of one batch would mean little."""
        self.update(references, answers)

    def compute(self) -> dict[str, dict[str, float]]:
        splits = split_rows(gather_rows(self.rows))
        return on_rank_zero(lambda: {split: perbench_figures(rows, self.mode) for split, rows in splits.items()})

    def reset(self) -> None:
        super().reset()
        self.rows = {}


def check_sizes(truth: Truth, answer: Answer) -> None:
    """Raises ValueError where an answered mask has another size than the targets."""
    for mask in (*answer.masks, *answer.forced_masks) if truth.targets else ():
        if list(mask["size"]) != list(truth.targets[0]["size"]):
            sizes = f"{list(mask['size'])} for an image of {list(truth.targets[0]['size'])}"
            raise ValueError(f"a mask of {sizes} (height, width)")
