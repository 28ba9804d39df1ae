"""Referring localization by writing: the query is read in the prompt, and the decoder writes the box (Table 4)."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import MeanMetric

from pixel_llm.core.decoding import DecodingRule
from pixel_llm.core.pixel_llm import PixelLLM
from pixel_llm.losses import masked_mean, smoothed_cross_entropy, supervised_tokens
from pixel_llm.structures import Batch, ImageFeatures, ReferringPrediction
from pixel_llm.tasks.optimizer import AdamWSchedule
from pixel_llm.tasks.referring import Referring, predictions
from pixel_llm.weights.start import StartingWeights

_NOWHERE = (0.0, 0.0, 0.0, 0.0)  # the box of an answer that cannot be read


class ReferringByText(Referring):
    """Learns the tokens of the box that the data module's `location_text` writes, and answers by greedy decoding.

    max_tokens: of an answer, <bos> and </s> included.

    An answer that is no box is a box without area, which misses; `unreadable` is their share.
    """

    def __init__(
        self, core: PixelLLM, optimizer: AdamWSchedule, weights: StartingWeights | None = None, max_tokens: int = 24
    ) -> None:
        super().__init__(core, optimizer, weights)
        core.location_head.requires_grad_(False)  # nothing reads it
        self.rule = DecodingRule(max_tokens)
        self.unreadable = MeanMetric()

    @property
    def location_text(self) -> Any:
        """How the data module's boxes are written (see `datamodules/location_text.py`)."""
        found = getattr(self.sources[0], "location_text", None)
        if found is None:
            raise ValueError("this task needs a data module with location_text")
        return found

    def setup(self, stage: str) -> None:
        super().setup(stage)
        needed, own = self.location_text.vocabulary_size(self.tokenizer), self.core.language_model.vocabulary_size
        if needed > own:
            raise ValueError(
                f"words and locations are {needed} tokens, the language model has only {own}: set its vocabulary_size"
            )

    def objective(self, features: ImageFeatures, batch: Batch, stage: str) -> Tensor:
        targets, lm = batch.targets, self.core.language_model
        assert targets is not None
        outputs = self.core(features, batch.prompts, targets.tokens)
        words = targets.tokens[:, 1:]
        loss = smoothed_cross_entropy(outputs.logits[:, :-1], words, smoothing=0.0)
        mean = masked_mean(loss, supervised_tokens(words, lm.pad_id, lm.eos_id))
        self.log_losses({"loss": mean}, stage, len(batch.keys))
        return mean

    def answer(self, features: ImageFeatures, batch: Batch) -> list[ReferringPrediction]:
        tokens = self.core.generate(features, batch.prompts, self.rule).tokens[:, 1:].tolist()
        boxes = [self._read(row) for row in tokens]
        return predictions(torch.tensor([box or _NOWHERE for box in boxes]), None, None, batch)

    def _score(self, features: ImageFeatures, batch: Batch) -> list[ReferringPrediction]:
        answers = super()._score(features, batch)
        unreadable = [a.box == _NOWHERE for a, r in zip(answers, batch.references, strict=True) if r is not None]
        self.unreadable.update(torch.tensor(unreadable, dtype=torch.float))
        return answers

    def _read(self, tokens: list[int]) -> tuple[float, float, float, float] | None:
        """tokens: behind <bos>, up to </s> and padding."""
        end = self.core.language_model.eos_id
        return self.location_text.read(tokens[: tokens.index(end)] if end in tokens else tokens, self.tokenizer)

    def _log_scores(self, stage: str) -> dict[str, dict[str, float]]:
        self.log(f"{stage}/unreadable", self.unreadable.compute())
        self.unreadable.reset()
        return super()._log_scores(stage)
