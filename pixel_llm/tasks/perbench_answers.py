"""A single transformer's answers to PerBench, scored as the authors' programs do and as the figures' names say."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from pixel_llm.core.decoding import Decoded
from pixel_llm.metrics.perbench import PerBenchMetrics
from pixel_llm.metrics.perbench_scores import PROTOCOLS, SEGMENTATION
from pixel_llm.pixel_sail.pixel_sail import PixelSail, SailImages
from pixel_llm.structures import AnswerPrediction, Batch, Prompts
from pixel_llm.tables import figures_table, named_figures
from pixel_llm.tasks.base import prompt_keys
from pixel_llm.tasks.dialogue_answers import Answers, Figures, covered, token_masks
from pixel_llm.tasks.masks import mask_rles

FORCED = "It is [SEG]."


class PerBenchAnswers(Answers):
    """Words, and a mask for each [SEG] in them; of a core without a mask head words alone.

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
        said = (chat.decode(tokens) for tokens in decoded.tokens.tolist())
        answers = [AnswerPrediction(key, answer) for key, answer in zip(prompt_keys(batch), said, strict=True)]
        if core.mask_head is not None:
            self._segment(core, images, batch, decoded, chat, answers)
        return answers

    def _segment(
        self,
        core: PixelSail,
        images: SailImages,
        batch: Batch,
        decoded: Decoded,
        chat: Any,
        answers: Sequence[AnswerPrediction],
    ) -> None:
        """Give answers their masks."""
        features = core.mask_features(images)
        rows, logits = token_masks(core, features, batch.prompts.image_index, decoded)
        for row, mask in zip(rows.tolist(), _run_lengths(core, images, batch, rows, logits), strict=True):
            answers[row].masks.append(mask)
        asked = [reference is not None and reference.kind == SEGMENTATION for reference in batch.references]
        silent = [row for row, answer in enumerate(answers) if asked[row] and not answer.masks]
        if silent and self.force_masks:
            rows = batch.prompts.image_index.new_tensor(silent)
            logits = _forced_masks(core, images, features, batch, rows, chat)
            for row, mask in zip(silent, _run_lengths(core, images, batch, rows, logits), strict=True):
                answers[row].forced_masks.append(mask)

    def update(self, batch: Batch, predictions: Sequence[AnswerPrediction]) -> None:
        for metric in self.metrics.values():
            metric.update(batch.references, predictions)

    def figures(self, source: Any) -> tuple[Figures, str]:
        """The strict figures are called SPLIT/NAME, those of the authors' mode SPLIT/paper/NAME."""
        named: Figures = {}
        tables = []
        for mode, metric in self.metrics.items():
            scores = metric.compute()
            metric.reset()
            named |= named_figures(scores if mode == "strict" else {f"{s}/{mode}": row for s, row in scores.items()})
            tables += [figures_table(scores, f"protocol: {PROTOCOLS[mode]}")] if scores else []
        return named, "\n\n".join(tables)


def _run_lengths(
    core: PixelSail, images: SailImages, batch: Batch, rows: Tensor, logits: Tensor
) -> list[dict[str, Any]]:
    """Mask logits float[S, h, w] on the canvas, of the answers int[S], at the size of the original images."""
    index = batch.prompts.image_index[rows]
    return mask_rles(logits[:, None], batch.sizes[index], batch.original_sizes[index], covered(core, images))


def _forced_masks(
    core: PixelSail, images: SailImages, features: Tensor, batch: Batch, rows: Tensor, chat: Any
) -> Tensor:
    """Mask logits float[S, h, w] on the canvas of `FORCED`, said to the prompts int[S]."""
    index, context = batch.prompts.image_index[rows], batch.prompts.context
    asked = Prompts(index, batch.prompts.boxes[rows], None if context is None else context[rows])
    tokens = index.new_tensor([core.bos_id, *chat.encode(FORCED), core.eos_id]).expand(len(rows), -1)
    hidden = core(images, asked, tokens).hidden
    return core.masks(features, hidden[tokens == core.special.seg], index)
