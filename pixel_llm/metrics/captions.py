"""Caption scores of the COCO protocol over a whole data set: BLEU, ROUGE-L, CIDEr-D and METEOR."""

import logging
from collections.abc import Sequence
from statistics import fmean

from torchmetrics import Metric

from pixel_llm.metrics.bleu import bleu
from pixel_llm.metrics.cider import cider
from pixel_llm.metrics.distributed import gather_rows, on_rank_zero
from pixel_llm.metrics.jars import JarUnavailable
from pixel_llm.metrics.meteor import count_meteor, meteor_score, sum_statistics
from pixel_llm.metrics.ptb import Tokenizer, ptb_tokenizer
from pixel_llm.metrics.rouge import rouge_l

log = logging.getLogger(__name__)


class CaptionMetrics(Metric):
    """Collects captions by sample and scores them together, since CIDEr depends on the whole set.

    `compute` returns plain numbers: bleu1 to bleu4, rouge_l and meteor in [0, 1], and cider in the
    definition's scale of 0 to 10 (many tables print 100 times these values). Where Java is missing or does not
    work, a warning says so, captions are tokenized approximately and meteor is called meteor_python; it is absent
    where the `captions` extra is not installed. The result is empty when there is no caption.

    A sample that several ranks (or the padding of a distributed sampler) bring counts once. All ranks must
    call `compute`; the scoring itself happens on rank 0.
    """

    full_state_update = False
    higher_is_better = True

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[str, tuple[str, tuple[str, ...]]] = {}

    def update(self, keys: Sequence[str], captions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
        """keys: names of the samples, unique in the data set.  captions: what the model said, untokenized.
        references: for each sample at least one true caption; ValueError, naming the sample, where none."""
        for key, caption, own_references in zip(keys, captions, references, strict=True):
            if not own_references:
                raise ValueError(f"sample {key!r} has no reference caption")
            self.rows.setdefault(key, (caption, tuple(own_references)))

    def forward(self, keys: Sequence[str], captions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
        """Updates only: a score of one batch would mean nothing."""
        self.update(keys, captions, references)

    def compute(self) -> dict[str, float]:
        rows = gather_rows(self.rows)
        captions = [caption for caption, _ in rows.values()]
        references = [own_references for _, own_references in rows.values()]
        return on_rank_zero(lambda: score_captions(captions, references)) if rows else {}

    def reset(self) -> None:
        super().reset()
        self.rows = {}


def score_captions(captions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """The scores of `CaptionMetrics` for captions with their references, both untokenized and not empty lists."""
    captions, references = _tokenize(ptb_tokenizer(), captions, references)
    scores = {f"bleu{order}": value for order, value in enumerate(bleu(captions, references), start=1)}
    scores["rouge_l"] = fmean(map(rouge_l, captions, references))
    scores["cider"] = fmean(cider(captions, references))
    try:
        name, counts = count_meteor(captions, references)
        scores[name] = float(meteor_score(sum_statistics(counts)))
    except JarUnavailable as problem:
        log.warning("METEOR is left out: %s", problem)
    return scores


def _tokenize(
    tokenizer: Tokenizer, captions: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[list[str], list[list[str]]]:
    """Captions in one go and references in another, as the protocol does, then grouped by caption again."""
    log.info("tokenizing %d captions with %s", len(captions), tokenizer.name)
    tokens = iter(tokenizer.tokenize([text for own_references in references for text in own_references]))
    grouped = [[next(tokens) for _ in own_references] for own_references in references]
    return tokenizer.tokenize(list(captions)), grouped
