"""What all tasks share: starting weights, the optimiser, and checks that data and model fit each other."""

from collections.abc import Collection, Mapping
from typing import Any

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn

from pixel_llm.core.decoding import DecodingRule
from pixel_llm.core.image_encoder import ImageEncoder
from pixel_llm.core.language_model import LanguageModel
from pixel_llm.core.pixel_llm import PixelLLM
from pixel_llm.losses import caption_loss
from pixel_llm.sharding import gather, shard
from pixel_llm.structures import Batch, ImageFeatures, Prompts
from pixel_llm.tasks.optimizer import AdamWSchedule
from pixel_llm.weights.checkpoint import check_task
from pixel_llm.weights.frozen_encoder import ENCODER, encoder_fingerprint, frozen_encoder
from pixel_llm.weights.start import StartingWeights
from pixel_llm.weights.tensors import check_fit


class Task(L.LightningModule):
    """Base class of the LightningModules: a core, its optimiser, and where it starts from.

    core: the network; the only thing with parameters that a checkpoint needs.
    optimizer: see `AdamWSchedule`.
    weights: pretrained parts to start from; the command line leaves them out where a checkpoint is restored.
    """

    training_parts: Collection[str] = ()  # names of modules beside the core that are made for training alone

    def __init__(self, core: nn.Module, optimizer: AdamWSchedule, weights: StartingWeights | None = None) -> None:
        super().__init__()
        self.core = core
        self.optimizer = optimizer
        self.weights = weights
        self._tokenizer: Any = None
        self._features_checked = False
        self._whole: tuple[Task, str] | None = None

    def take_part(self, whole: "Task", name: str) -> None:
        """Become a part of a joint training, which does the logging, below this name, and has the tokenizer."""
        self._whole = (whole, name)  # a tuple: torch would take the whole alone for a module of this one

    def log(self, name: str, *args: Any, **kwargs: Any) -> None:
        """As Lightning's; of a part, stage/value becomes stage/NAME/value."""
        if self._whole is None:
            super().log(name, *args, **kwargs)
        else:
            whole, own = self._whole
            stage, _, value = name.partition("/")
            whole.log(f"{stage}/{own}/{value}", *args, **kwargs | {"prog_bar": False, "add_dataloader_idx": False})

    def setup(self, stage: str) -> None:
        language_model = getattr(self.core, "language_model", self.core)
        if isinstance(language_model, LanguageModel):
            check_tokenizer(self.tokenizer, language_model)
        if self.weights is not None:
            self.weights.load(self.core)

    def configure_model(self) -> None:
        """Share out the weights where the strategy has made a mesh of processes for it (FSDP2)."""
        if self.device_mesh is not None:
            shard(self, self.core, self.device_mesh["data_parallel"])

    def on_train_start(self) -> None:
        self.check_features()

    def on_validation_start(self) -> None:
        gather(self.core, whole=True)
        self.check_features()

    def on_validation_end(self) -> None:
        gather(self.core, whole=False)

    on_test_start = on_predict_start = on_validation_start

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Name what does not change in this run, so that it is written once (`pixel_llm/weights/frozen.py`)."""
        parameters = self.named_parameters(remove_duplicate=False)
        frozen = [name for name, value in parameters if not value.requires_grad and name in checkpoint["state_dict"]]
        checkpoint["frozen"] = {"names": frozen}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """ValueError with one line for a checkpoint of another task or size; one of joint training can be tested."""
        path, training = str(self.trainer.ckpt_path), self.trainer.state.fn == TrainerFn.FITTING
        check_task(checkpoint.get("config", "{}"), type(self).__name__, path, training)
        if "state_dict" in checkpoint:  # a sharded one is loaded piece by piece
            if not training:
                checkpoint["state_dict"] = self.without_training_parts(checkpoint["state_dict"])
            check_fit(self, checkpoint["state_dict"], path)

    def make_training_parts(self) -> None:
        """Make what is used in training alone, where there is something and it is not there yet."""

    def without_training_parts(self, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What of a state dict a task that does not train has a place for."""
        return {name: value for name, value in state.items() if name.partition(".")[0] not in self.training_parts}

    def frozen_encoders(self) -> dict[str, ImageEncoder]:
        """By name those whose features data may bring; ValueError with one line where there is none that is frozen."""
        return {ENCODER: frozen_encoder(self.core, ENCODER)}

    def check_features(self) -> None:
        """ValueError with one line where the data bring features of other encoders than this model's.

        It comes after a checkpoint has been restored, and once: the encoders are frozen.
        """
        caches = getattr(getattr(self.trainer, "datamodule", None), "feature_caches", [])
        for cache in [] if self._features_checked else caches:
            self.check_cache(cache)
        self._features_checked = True

    def check_cache(self, cache: Any) -> None:
        """ValueError with one line for features (a `datamodules.features.FeatureCache`) that are not of this model."""
        name, theirs = cache.producer.name, cache.producer.weights
        encoder = self.frozen_encoders().get(name)
        if encoder is None:
            raise ValueError(f"{cache.folder}: features of {name}, which this model has no use for")
        if (found := encoder_fingerprint(encoder)) != theirs:
            raise ValueError(f"{cache.folder}: features of a {name} with other weights ({theirs}, here {found})")

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        return self.loss(batch, "train")

    def validation_step(self, batch: Batch, batch_idx: int) -> Any:
        self.loss(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> Any:
        self.loss(batch, "test")

    def loss(self, batch: Batch, stage: str) -> torch.Tensor:
        """The loss of a batch, logged under "train", "val" or "test"; tasks that measure more have their own steps."""
        raise NotImplementedError

    def configure_optimizers(self) -> Any:
        total = int(self.trainer.estimated_stepping_batches)
        optimizer, scheduler = self.optimizer.build(self, total)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    @property
    def tokenizer(self) -> Any:
        """The data module's tokenizer (see `datamodules/tokenizer.py`), or one that was set in its place."""
        if self._whole is not None:
            return self._whole[0].tokenizer
        return self._tokenizer or self.trainer.datamodule.tokenizer  # type: ignore[attr-defined]

    @tokenizer.setter
    def tokenizer(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def log_losses(self, values: dict[str, torch.Tensor], stage: str, batch_size: int) -> None:
        """Log named scalars of a step; the total goes to the progress bar."""
        named = {f"{stage}/{name}": value for name, value in values.items()}
        total = named.pop(f"{stage}/loss")
        shared: dict[str, Any] = {"batch_size": batch_size, "sync_dist": stage != "train"}
        self.log(f"{stage}/loss", total, prog_bar=True, **shared)
        self.log_dict(named, **shared)


class PixelLLMTask(Task):
    """Base class of the tasks of a whole PixelLLM."""

    core: PixelLLM

    def encode(self, batch: Batch) -> ImageFeatures:
        """The images of a batch, encoded once for all that is asked about them."""
        return self.core.encode_images(batch.images, batch.sizes, batch.features.get("sam_encoder"))


class WritingTask(PixelLLMTask):
    """Base class of the tasks in which a PixelLLM writes.

    label_smoothing: see `pixel_llm.losses`.  max_tokens, beams: of decoding in tests and predictions.
    """

    def __init__(
        self,
        core: PixelLLM,
        optimizer: AdamWSchedule,
        weights: StartingWeights | None,
        label_smoothing: float,
        max_tokens: int,
        beams: int,
    ) -> None:
        super().__init__(core, optimizer, weights)
        self.label_smoothing = label_smoothing
        self.rule = DecodingRule(max_tokens, beams)

    def words_loss(self, features: ImageFeatures, prompts: Prompts, tokens: torch.Tensor) -> torch.Tensor:
        """`caption_loss` of the captions int[P, T] that should be written to the prompts."""
        lm = self.core.language_model
        logits = self.core(features, prompts, tokens).logits
        return caption_loss(logits, tokens, lm.pad_id, lm.eos_id, self.label_smoothing)


def prompt_keys(batch: Batch) -> list[str]:
    """P names of the prompts, for predictions; empty where a repeated sample only fills up the last batch."""
    return [reference.key if reference else "" for reference in batch.references]


def check_tokenizer(tokenizer: Any, language_model: LanguageModel) -> None:
    """ValueError with one line where the data's token ids mean something else to the model."""
    if tokenizer.vocabulary_size > language_model.vocabulary_size:
        raise ValueError(
            f"the tokenizer has {tokenizer.vocabulary_size} tokens, the language model only "
            f"{language_model.vocabulary_size}: set its vocabulary_size, or use the tokenizer it was made with"
        )
    check_special_ids(tokenizer, language_model)


def check_special_ids(tokenizer: Any, language_model: Any) -> None:
    """ValueError with one line where texts begin, end or are padded by other ids than the model's."""
    for name in ("bos_id", "eos_id", "pad_id"):
        ours, theirs = getattr(tokenizer, name), getattr(language_model, name)
        if ours != theirs:
            raise ValueError(f"{name} is {ours} for the tokenizer and {theirs} for the language model")
