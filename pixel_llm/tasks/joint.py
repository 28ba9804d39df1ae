"""Joint training: one model learns from captions, traces, queries, regions and conversations (one stage for all)."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pixel_llm.core.pixel_llm import PixelLLM
from pixel_llm.losses import Normalisation
from pixel_llm.sharding import own_share
from pixel_llm.structures import Batch
from pixel_llm.tasks.base import PixelLLMTask
from pixel_llm.tasks.dense_captioning import DenseCaptioning
from pixel_llm.tasks.image_captioning import ImageCaptioning
from pixel_llm.tasks.optimizer import AdamWSchedule
from pixel_llm.tasks.referring_localization import ReferringLocalization
from pixel_llm.tasks.trace_captioning import TraceCaptioning
from pixel_llm.weights.start import StartingWeights


class JointTraining(PixelLLMTask):
    """Gives each batch to the task of the data that it comes from; a batch comes from one kind of data.

    Words and their places are learned from narratives, words alone from captions and conversations, boxes of queries
    from referring expressions, a detector and captions of what it samples from regions. How often each is drawn is
    said by the weights of the data module's mixture.

    loss_weights: factors of the losses by kind of data ("localized_narratives", "image_captions", "conversations",
        "referring", "regions"); 1 for what is not named.
    location_weight: lambda, on distances in pixels of the canvas, of narratives and of queries.
    normalisation: of narratives, see `trace_caption_loss`.
    captioned_per_image: see `DenseCaptioning`; a core without a proposal head has no use for regions.
    label_smoothing, max_tokens, beams: see `Captioning`.

    Each task validates and tests on batches of its data and logs below their name, such as train/referring/loss.
    """

    def __init__(
        self,
        core: PixelLLM,
        optimizer: AdamWSchedule,
        weights: StartingWeights | None = None,
        loss_weights: dict[str, float] = {},  # noqa: B006
        location_weight: float = 0.1,
        normalisation: Normalisation = "joint",
        captioned_per_image: int = 16,
        label_smoothing: float = 0.1,
        max_tokens: int = 128,
        beams: int = 1,
    ) -> None:
        super().__init__(core, optimizer, weights)
        writing: dict[str, Any] = {"label_smoothing": label_smoothing, "max_tokens": max_tokens, "beams": beams}
        # a dict, and not torch's: the tasks have no parameters beside those of the core
        self.tasks: dict[str, PixelLLMTask] = {
            "localized_narratives": TraceCaptioning(
                core, optimizer, location_weight=location_weight, normalisation=normalisation, **writing
            ),
            "image_captions": ImageCaptioning(core, optimizer, **writing),
            "conversations": ImageCaptioning(core, optimizer, **writing),
            "referring": ReferringLocalization(core, optimizer, location_weight=location_weight),
        }
        if core.proposal_head is not None:
            self.tasks["regions"] = DenseCaptioning(
                core, optimizer, captioned_per_image=captioned_per_image, **writing
            )
        core.location_head.requires_grad_(True)  # the tasks that only write leave it as it is
        for name, task in self.tasks.items():
            task.take_part(self, name)
        if unknown := loss_weights.keys() - self.tasks.keys():
            raise ValueError(f"loss_weights: {unknown.pop()} is none of {', '.join(self.tasks)}")
        self.loss_weights = loss_weights
        self._seen: set[str] = set()

    def setup(self, stage: str) -> None:
        super().setup(stage)
        for task in self.tasks.values():
            task.trainer = self.trainer

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        source, task = self._task(batch)
        loss = self.loss_weights.get(source, 1.0) * task.loss(batch, "train")
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch.keys))
        return loss + self._zero()

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._evaluated(batch).validation_step(batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        for task in self._all_evaluated():
            task.on_validation_epoch_end()

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Any:
        return self._evaluated(batch).test_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        for task in self._all_evaluated():
            task.on_test_epoch_end()

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Any:
        return self._task(batch)[1].predict_step(batch, batch_idx)

    def _task(self, batch: Batch) -> tuple[str, PixelLLMTask]:
        """The kind of data that a batch is of, and its task; ValueError with one line for one of several kinds."""
        kinds = set(batch.sources)
        if len(kinds) != 1:
            raise ValueError(f"a batch of {', '.join(sorted(kinds))}: set single_source_batches")
        (kind,) = kinds
        if kind not in self.tasks:
            reason = " without a proposal head" if kind == "regions" else ""
            raise ValueError(f"this model{reason} does not learn from {kind}, only from {', '.join(self.tasks)}")
        return kind, self.tasks[kind]

    def _evaluated(self, batch: Batch) -> PixelLLMTask:
        name, task = self._task(batch)
        if name not in self._seen:
            self._seen.add(name)
            task.to(self.device)  # its metrics
        return task

    def _all_evaluated(self) -> Iterator[PixelLLMTask]:
        """The tasks that had a batch in this epoch, in one order in all processes."""
        seen, self._seen = self._seen, set()
        return (task for name, task in self.tasks.items() if name in seen)

    def _zero(self) -> Tensor:
        """0, in which all parameters that train take part.

        What a batch leaves aside, such as the detector in one of queries, so gets a gradient of zero instead of none:
        processes wait for the gradients of all parameters, and the optimiser's averages go on, as published. Where
        weights are shared out, blocks are so again after the forward pass while the rest is still gathered.
        """
        trained = (own_share(value) for value in self.core.parameters() if value.requires_grad)
        # 0 * before the sum: its gradients have memory of their own, to which others can be added in place
        return torch.stack([(0 * value).sum().float() for value in trained]).sum()
