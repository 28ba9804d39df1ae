"""Text alone: how a small language model that has no released weights learns to write, before it sees an image."""

import torch
from torch import Tensor

from pixel_llm.core.language_model import LanguageModel
from pixel_llm.losses import caption_loss
from pixel_llm.structures import Batch
from pixel_llm.tasks.base import Task
from pixel_llm.tasks.optimizer import AdamWSchedule


class TextPretraining(Task):
    """Learns to continue the prompt's text by the target's, without any visual token (a prefix language model)."""

    core: LanguageModel

    def __init__(self, core: LanguageModel, optimizer: AdamWSchedule) -> None:
        super().__init__(core, optimizer)

    def loss(self, batch: Batch, stage: str) -> Tensor:
        assert batch.targets is not None
        tokens = batch.targets.tokens
        nothing = torch.zeros(len(tokens), 0, self.core.visual_width, device=tokens.device)
        prefix = self.core.encode_prefix(nothing, batch.prompts.context)
        hidden = self.core.hidden_states(prefix, tokens)
        lm = self.core
        mean = caption_loss(lm.logits(hidden), tokens, lm.pad_id, lm.eos_id, smoothing=0.0)
        self.log_losses({"loss": mean}, stage, len(batch.keys))
        return mean
