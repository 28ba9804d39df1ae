"""Pixel-SAIL's training: questions about images and their regions, answered in words and masks (Section 3.4)."""

import logging
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.nn import functional as F

from pixel_llm.core.decoding import DecodingRule
from pixel_llm.core.image_encoder import ImageEncoder
from pixel_llm.losses import anywhere, caption_loss
from pixel_llm.pixel_sail.distillation import CachedFeatures, Distillation, DistillationLoss, FrozenEncoder
from pixel_llm.pixel_sail.pixel_sail import PixelSail, SailImages
from pixel_llm.pixel_sail.visual_prompts import complaint
from pixel_llm.point_losses import PointLoss, PointMaskLoss
from pixel_llm.structures import Batch
from pixel_llm.tasks.base import Task, check_special_ids
from pixel_llm.tasks.dialogue_answers import KINDS, Answers, covered
from pixel_llm.tasks.optimizer import AdamWSchedule
from pixel_llm.tasks.perbench_answers import PerBenchAnswers
from pixel_llm.tasks.readings import apart
from pixel_llm.weights.frozen_encoder import check_frozen
from pixel_llm.weights.start import StartingWeights

log = logging.getLogger(__name__)


class Dialogues(Task):
    """Learns the words of answers, and the masks of their [SEG] tokens; a core without a mask head the words alone.

    mask_loss: of the masks, see `PointMaskLoss`.
    words_beside_masks: factor of the words' loss in a batch with masks (published: 0.1; the paper has none).
    max_tokens, beams: of decoding in tests and predictions.
    distillation: what else is learned in training, from vision experts; called with the widths of `Distillation`.
    force_masks: of PerBench, see `PerBenchAnswers`.

    Regions of which smaller ones take every patch, so that the model does not see them, are counted as `regions_lost`:
    of each training batch, and of a whole evaluation.

    What an answer means, and how it is scored, depends on the data that ask: see `dialogue_answers`.
    """

    core: PixelSail
    training_parts = ("distillation",)

    def __init__(
        self,
        core: PixelSail,
        optimizer: AdamWSchedule,
        weights: StartingWeights | None = None,
        mask_loss: PointMaskLoss | None = None,
        words_beside_masks: float = 0.1,
        max_tokens: int = 64,
        beams: int = 1,
        distillation: Callable[[int, int], Distillation] | None = None,
        force_masks: bool = True,
    ) -> None:
        super().__init__(core, optimizer, weights)
        self.mask_loss = mask_loss or PointMaskLoss()
        self.words_beside_masks = words_beside_masks
        self.rule = DecodingRule(max_tokens, beams)
        self.kinds: dict[str, Callable[[], Answers]] = {**KINDS, "perbench": partial(PerBenchAnswers, force_masks)}
        self.answers: dict[str, Answers] = {}
        self._regions_lost = 0  # in this evaluation
        self._chat: Any = None
        self._distil = distillation
        self.distillation: Distillation | None = None

    def setup(self, stage: str) -> None:
        super().setup(stage)
        self._check_kinds()
        theirs, own = self.chat.special, self.core.special
        if theirs != own:
            raise ValueError(
                f"the data have {theirs.first} words and {theirs.visual_prompts} names of regions, the model "
                f"{own.first} and {own.visual_prompts}: set the core's words and visual_prompts"
            )
        check_special_ids(self.chat.tokenizer, self.core)
        if stage == "fit":
            self.make_training_parts()

    def _check_kinds(self) -> None:
        data = getattr(self.trainer, "datamodule", None)
        for source in getattr(data, "sources", [data]):
            self._check_kind(getattr(source, "name", ""))

    def _check_kind(self, name: str) -> None:
        """ValueError with one line for data whose answers nobody here can read."""
        if name and name not in self.kinds:
            raise ValueError(f"data of kind {name} are not for this model, which knows {', '.join(self.kinds)}")

    def make_training_parts(self) -> None:
        if self._distil is not None and self.distillation is None:
            head = self.core.mask_head
            self.distillation = self._distil(self.core.backbone.width, head.embedding if head else 0)

    def frozen_encoders(self) -> dict[str, ImageEncoder]:
        self.make_training_parts()
        teachers = self.distillation.teachers if self.distillation else {}
        encoders = {name: each.encoder for name, each in teachers.items() if isinstance(each, FrozenEncoder)}
        for name, encoder in encoders.items():
            check_frozen(encoder, name)
        return encoders

    def check_features(self) -> None:
        """Of training alone: teachers have no say in anything else."""
        if self.trainer.state.fn == TrainerFn.FITTING:
            super().check_features()

    def check_cache(self, cache: Any) -> None:
        self.make_training_parts()
        teacher = self.distillation.teachers.get(cache.producer.name) if self.distillation else None
        if isinstance(teacher, CachedFeatures):
            teacher.check(cache)
        else:
            super().check_cache(cache)

    @property
    def chat(self) -> Any:
        """The data's `ChatText`, or one that was set in its place."""
        data = None if self._chat else self.trainer.datamodule  # type: ignore[attr-defined]
        return self._chat or getattr(data, "sources", [data])[0].chat

    @chat.setter
    def chat(self, chat: Any) -> None:
        self._chat = chat

    def read(self, batch: Batch) -> SailImages:
        """The images of a batch with their regions, read once for all that is asked about them."""
        return self.core.encode_images(batch.images, batch.sizes, batch.visual_prompts)

    def loss(self, batch: Batch, stage: str) -> Tensor:
        """ValueError with one line for a batch with masks, where the core has no mask head."""
        assert batch.targets is not None
        images, tokens = self.read(batch), batch.targets.tokens
        learns_masks = self.core.mask_head is not None or batch.masks is not None
        features = self.core.mask_features(images) if learns_masks else None
        outputs = self.core(images, batch.prompts, tokens)
        words = caption_loss(outputs.logits, tokens, self.core.pad_id, self.core.eos_id, 0.0)
        total, values = words, {"words": words.detach()}
        if features is not None:
            masks, some = self._mask_loss(images, features, outputs.hidden, batch)
            total = (self.words_beside_masks if some else 1.0) * words + masks.total
            if some:
                values |= {"mask_cross_entropy": masks.cross_entropy, "mask_dice": masks.dice}
        if stage == "train" and self.distillation is not None:
            learnt = self._distillation_loss(images, features, batch)
            total = total + learnt.total
            values |= {"distillation": learnt.total.detach()}
        if stage == "train" and self.core.visual_prompts is not None:
            values |= {"regions_lost": torch.tensor(float(len(images.unseen)))}
        self.log_losses({"loss": total, **values}, stage, len(batch.keys))
        return total

    def _distillation_loss(self, images: SailImages, features: Tensor | None, batch: Batch) -> DistillationLoss:
        assert self.distillation is not None
        return self.distillation(images.states, images.grid, features, batch.images, batch.sizes, batch.features)

    def _mask_loss(
        self, images: SailImages, features: Tensor, hidden: Tensor, batch: Batch
    ) -> tuple[PointLoss, bool]:
        """Of all [SEG] tokens whose masks the batch has, and whether any process has one.

        In evaluation the masks are left to the references, at the size of the original image.
        """
        assert batch.targets is not None
        height, width = covered(self.core, images)
        masks, segments = batch.masks, batch.targets.tokens == self.core.special.seg
        if masks is None:
            masks, segments = batch.images.new_zeros(0, height, width, dtype=torch.bool), torch.zeros_like(segments)
        rows, columns = segments.nonzero(as_tuple=True)
        index = batch.prompts.image_index[rows]
        logits = self.core.masks(features, hidden[rows, columns], index)
        truth = F.pad(masks, (0, width - masks.shape[2], 0, height - masks.shape[1]))
        return self.mask_loss(logits, truth, batch.sizes[index]), anywhere(segments)

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        batch = apart(batch, self.core.special)
        self.loss(batch, "val")
        self._score(batch)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, list[Any]]:
        return {"predictions": self._score(apart(batch, self.core.special))}

    def on_validation_epoch_end(self) -> None:
        for _ in self._figures("val"):
            pass

    def on_test_epoch_end(self) -> None:
        for table in self._figures("test"):
            if table and self.trainer.is_global_zero:
                sys.stdout.write(f"\n{table}\n")

    @torch.no_grad()
    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> list[Any]:
        return self.answer(batch, self._kind(batch))

    @torch.no_grad()
    def _score(self, batch: Batch) -> list[Any]:
        """Answer a batch whose questions stand `apart`, and keep what the figures need."""
        kind, images = self._kind(batch), self.read(batch)
        predictions = self._answer(images, batch, kind)
        kind.update(batch, predictions)
        self._regions_lost += len(images.unseen)
        return predictions

    @torch.no_grad()
    def answer(self, batch: Batch, kind: Answers) -> list[Any]:
        """One answer for each prompt of the batch, read as answers of a kind, with only the regions that it names.

        Warns in one line of regions that the model does not see.
        """
        batch = apart(batch, self.core.special)
        images = self.read(batch)
        if len(images.unseen):
            assert batch.visual_prompts is not None
            log.warning(complaint(batch.visual_prompts, images.unseen, self.core.patch_embedding.patch))
        return self._answer(images, batch, kind)

    def _answer(self, images: SailImages, batch: Batch, kind: Answers) -> list[Any]:
        decoded = self.core.generate(images, batch.prompts, self.rule)
        return kind.read(self.core, images, batch, decoded, self.chat)

    def _kind(self, batch: Batch) -> Answers:
        """How answers to a batch are read; ValueError with one line for one of several kinds, or of an unknown one."""
        sources = set(batch.sources)
        if len(sources) > 1:
            raise ValueError(f"a batch of {', '.join(sorted(sources))}: answers are read kind by kind")
        (source,) = sources
        if source not in self.answers:
            self._check_kind(source)
            self.answers[source] = self.kinds[source]()
        return self.answers[source]

    def _source(self, name: str, stage: str) -> Any:
        """The data module of a kind that is evaluated on; None where the trainer was given none."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        sources = [source for source in getattr(data, "sources", [data]) if getattr(source, "name", None) == name]
        return next((source for source in sources if source.folders[stage]), None)

    def _figures(self, stage: str) -> Iterator[str]:
        """Logs the figures of each kind of data that was scored, in one order in all processes; yields their tables."""
        for name in sorted(self.answers):
            figures, table = self.answers[name].figures(self._source(name, stage))
            self.log_dict({f"{stage}/{figure}": value for figure, value in figures.items()})
            yield table
        if self.core.visual_prompts is not None:
            self.log(f"{stage}/regions_lost", float(self._regions_lost), reduce_fx="sum", sync_dist=True)
        self._regions_lost = 0
