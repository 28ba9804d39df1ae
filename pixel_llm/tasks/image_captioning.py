"""Image captioning without locations: the first pretraining stage, on image-text pairs."""

from torch import Tensor

from pixel_llm.core.pixel_llm import PixelLLM
from pixel_llm.structures import Batch
from pixel_llm.tasks.captioning import Captioning
from pixel_llm.tasks.optimizer import AdamWSchedule
from pixel_llm.weights.start import StartingWeights


class ImageCaptioning(Captioning):
    """Learns to write captions; the location head stays as it is.

    With a data module that splits captions (`split_prefix`), part of the caption is given and the rest is learned,
    as in the paper's pretraining on image-text pairs.
    Other arguments: see `Captioning`.
    """

    def __init__(
        self,
        core: PixelLLM,
        optimizer: AdamWSchedule,
        weights: StartingWeights | None = None,
        label_smoothing: float = 0.1,
        max_tokens: int = 40,
        beams: int = 1,
    ) -> None:
        super().__init__(core, optimizer, weights, label_smoothing, max_tokens, beams)
        core.location_head.requires_grad_(False)

    def loss(self, batch: Batch, stage: str) -> Tensor:
        assert batch.targets is not None
        loss = self.words_loss(self.encode(batch), batch.prompts, batch.targets.tokens)
        self.log_losses({"loss": loss}, stage, len(batch.keys))
        return loss
