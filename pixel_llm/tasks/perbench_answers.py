"""A single transformer's answers to PerBench, scored as the authors' programs do and as the figures' names say."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from pixel_llm.core.decoding import Decoded
from pixel_llm.metrics.perbench import PerBenchMetrics
from pixel_llm.metrics.perbench_scores import PROTOCOLS, SEGMENTATION
from pixel_llm.pixel_sail.pixel_sail import PixelSail, SailImages
from pixel_llm.structures import AnswerPrediction, Batch, Prompts
from pixel_llm.tables import figures_table
from pixel_llm.tasks.base import prompt_keys
from pixel_llm.tasks.dialogue_answers import Answers, Figures, covered, token_masks
from pixel_llm.tasks.masks import mask_rles

FORCED = "It is [SEG]."


class PerBenchAnswers(Answers):
    """Words, and a mask for each [SEG] in them.

    force_masks: where masks are asked for and the answer has none, say `FORCED` in its place. The mask of that is the
        authors' second attempt, which counts in their mode alone; in the strict one silence is no mask.
    """

    def __init__(self, force_masks: bool = True) -> None:
        super().__init__()
        self.metrics = {mode: PerBenchMetrics(mode) for mode in PROTOCOLS}
        self.force_masks = force_masks

    def read(
        self, core: PixelSail, images: SailImages, batch: Batch, decoded: Decoded, chat: Any
    ) -> list[AnswerPrediction]:
        features = core.mask_features(images)
        rows, logits = token_masks(core, features, batch.prompts.image_index, decoded)
        masks = _by_answer(core, images, batch, rows, logits)
        forced: list[list[dict[str, Any]]] = [[] for _ in masks]
        asked = [reference is not None and reference.kind == SEGMENTATION for reference in batch.references]
        silent = [i for i, (wanted, own) in enumerate(zip(asked, masks, strict=True)) if wanted and not own]
        if silent and self.force_masks:
            rows = batch.prompts.image_index.new_tensor(silent)
            forced = _by_answer(core, images, batch, rows, _forced_masks(core, images, features, batch, rows, chat))
        said = (chat.decode(tokens) for tokens in decoded.tokens.tolist())
        found = zip(prompt_keys(batch), said, masks, forced, strict=True)
        return [AnswerPrediction(*prediction) for prediction in found]

    def update(self, batch: Batch, predictions: Sequence[AnswerPrediction]) -> None:
        for metric in self.metrics.values():
            metric.update(batch.references, predictions)

    def figures(self) -> tuple[Figures, str]:
        """The strict figures are called SPLIT/NAME, those of the authors' mode SPLIT/paper/NAME."""
        named: Figures = {}
        tables = []
        for mode, metric in self.metrics.items():
            scores = metric.compute()
            metric.reset()
            for split, row in scores.items():
                split = split if mode == "strict" else f"{split}/{mode}"
                named |= {f"{split}/{name}": float(value) for name, value in row.items()}
            tables += [figures_table(scores, f"protocol: {PROTOCOLS[mode]}")] if scores else []
        return named, "\n\n".join(tables)


def _by_answer(
    core: PixelSail, images: SailImages, batch: Batch, rows: Tensor, logits: Tensor
) -> list[list[dict[str, Any]]]:
    """Mask logits float[S, h, w] on the canvas, of the answers int[S], as run lengths; a list for each answer."""
    index = batch.prompts.image_index[rows]
    rles = mask_rles(logits[:, None], batch.sizes[index], batch.original_sizes[index], covered(core, images))
    found: list[list[dict[str, Any]]] = [[] for _ in batch.references]
    for row, rle in zip(rows.tolist(), rles, strict=True):
        found[row].append(rle)
    return found


def _forced_masks(
    core: PixelSail, images: SailImages, features: Tensor, batch: Batch, rows: Tensor, chat: Any
) -> Tensor:
    """Mask logits float[S, h, w] on the canvas of `FORCED`, said to the prompts int[S]."""
    index, context = batch.prompts.image_index[rows], batch.prompts.context
    asked = Prompts(index, batch.prompts.boxes[rows], None if context is None else context[rows])
    tokens = index.new_tensor([core.bos_id, *chat.encode(FORCED), core.eos_id]).expand(len(rows), -1)
    hidden = core(images, asked, tokens).hidden
    return core.masks(features, hidden[tokens == core.special.seg], index)
