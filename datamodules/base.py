"""What all LightningDataModules over shards share: opening, planning, loading, and the state of a run."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch

from datamodules.features import VIEW, FeatureCache, open_caches
from datamodules.loader import MakeSample, PlannedLoader, PlannedSource, Record
from datamodules.plan import Plan
from datamodules.remote import RemoteShard, open_folder
from datamodules.samples import Question, Sample
from datamodules.shard_index import Shard, ShardError
from datamodules.streaming import StreamedSource
from datamodules.tokenizer import Tokenizer
from datamodules.views import View, decode_jpeg, random_view, whole_view

Shards = Sequence[Shard | RemoteShard]
MakeQuestions = Callable[[Record, View, np.random.Generator], list[Question]]


@dataclass
class ImageSamples:
    """Turns a record with a `jpg` field into a sample: decodes the image, shows a view of it, asks the questions.

    scale_jitter, flip_probability: the training augmentation; (1, 1) and 0 show the whole image.
    blank: paint the image black; what a model then still knows, it knows from the text.
    caches: add what frozen encoders made of the whole image before.
    text_alone: a record without a picture is text alone, its view 0 x 0 pixels and its features zeros; else it cannot
        be used.
    """

    questions: MakeQuestions
    canvas: int
    scale_jitter: tuple[float, float] = (1.0, 1.0)
    flip_probability: float = 0.0
    blank: bool = False
    caches: Sequence[FeatureCache] = ()
    text_alone: bool = False

    def __call__(self, record: Record, rng: np.random.Generator) -> Sample:
        name = f"{record['__url__']}, {record['__key__']}"
        if self.text_alone and "jpg" not in record:
            view = View(torch.zeros(3, 0, 0, dtype=torch.uint8), (0.0, 0.0, 1.0, 1.0), False, (0, 0))
            made = [cache.producer for cache in self.caches]
            nothing = {encoder.name: torch.zeros(encoder.shape, dtype=torch.bfloat16) for encoder in made}
            return Sample(record["__key__"], view, self.questions(record, view, rng), features=nothing)
        pixels = decode_jpeg(record["jpg"], name)
        size = (pixels.shape[-2], pixels.shape[-1])
        if self.scale_jitter == (1.0, 1.0) and not self.flip_probability:
            view = whole_view(pixels, self.canvas, size)
        else:
            view = random_view(pixels, self.canvas, size, self.scale_jitter, self.flip_probability, rng)
        if self.blank:
            view = replace(view, pixels=torch.zeros_like(view.pixels))
        features = {cache.producer.name: cache.read(record["jpg"], name) for cache in self.caches}
        return Sample(record["__key__"], view, self.questions(record, view, rng), features=features)


class EvaluationLoaders(L.LightningDataModule, ABC):
    """A data module whose loaders outside training differ in the split only."""

    def val_dataloader(self) -> PlannedLoader | list[PlannedLoader]:
        return self.evaluation_loader("val")

    def test_dataloader(self) -> PlannedLoader | list[PlannedLoader]:
        return self.evaluation_loader("test")

    def predict_dataloader(self) -> PlannedLoader | list[PlannedLoader]:
        return self.evaluation_loader("test")

    @abstractmethod
    def evaluation_loader(self, split: str) -> PlannedLoader | list[PlannedLoader]:
        """Every sample of "val" or "test" once, as written."""


class ShardDataModule(EvaluationLoaders):
    """Base class of the data modules of one data set.

    train_shards, val_shards, test_shards: folders that `pixel-llm prepare` wrote, any number of each; on this machine,
        or at addresses (s3://, gs://, https://, ...), from where shards are fetched when they are first needed.
    tokenizer: a folder with `tokenizer.json` or `vocab.txt`.
    image_size: side of the square canvas in pixels; images keep their shape, the rest is zero.
    batch_size: images per step and process.  num_workers: loading processes per process.
    samples_per_epoch: images in a training epoch, default all of them once.
    scale_jitter: range of the longer side over the canvas in training; (1, 1) shows the whole image.
    flip_probability: of exchanging left and right in training (text is left as it is).
    blank_images: paint every image black, to measure what the text alone gives away.
    strict: stop at a training record that cannot be used. Else another takes its place, the first one is named, and
        all are counted. An evaluation always stops.
    streaming: read training shards from front to back in a random order that is not exact, and without a copy on this
        machine (see `datamodules/streaming.py`). Evaluation stays exact.
    length_multiple: texts are padded until their tokens are a multiple of it, so that a compiled model meets few
        lengths (see `callbacks/compilation.py`).
    features: a folder that `pixel-llm prepare features` wrote: frozen encoders' features are read and not computed.
        Training must then show images whole, always the same: without jitter and flips.
    """

    name: str  # of the data set, for logs
    kinds: Sequence[str]  # of shards that it reads, by the converters that make them
    evaluated_with_features = True  # whether a model reads them outside training too

    def __init__(
        self,
        *,
        train_shards: list[str],
        val_shards: list[str],
        test_shards: list[str],
        tokenizer: str,
        image_size: int = 384,
        batch_size: int = 32,
        num_workers: int = 2,
        seed: int = 0,
        samples_per_epoch: int | None = None,
        scale_jitter: tuple[float, float] = (1.0, 1.0),
        flip_probability: float = 0.0,
        blank_images: bool = False,
        strict: bool = False,
        streaming: bool = False,
        length_multiple: int = 1,
        features: str | None = None,
    ) -> None:
        super().__init__()
        check_multiple(length_multiple)
        self.folders = {"train": train_shards, "val": val_shards, "test": test_shards}
        self.tokenizer = Tokenizer(tokenizer)
        self.image_size, self.batch_size, self.num_workers, self.seed = (
            image_size,
            batch_size,
            num_workers,
            seed,
        )
        self.samples_per_epoch = samples_per_epoch
        self.scale_jitter, self.flip_probability = scale_jitter, flip_probability
        self.blank_images = blank_images
        self.strict, self.streaming = strict, streaming
        self.length_multiple = length_multiple
        self.features = features

    @abstractmethod
    def questions(self, training: bool) -> MakeQuestions:
        """The function, to be sent to worker processes, that asks a record's questions."""

    def make_sample(self, training: bool) -> MakeSample:
        """The function, to be sent to worker processes, that turns a record into a sample."""
        questions = self.questions(training)
        jitter, flips = (self.scale_jitter, self.flip_probability) if training else ((1.0, 1.0), 0.0)
        caches = self.feature_caches if training or self.evaluated_with_features else []
        return ImageSamples(questions, self.image_size, jitter, flips, self.blank_images, caches)

    def check_fixed_view(self) -> None:
        """ValueError with one line where an image is not always shown by the same pixels, all of it."""
        changing = {
            f"scale_jitter {list(self.scale_jitter)}": tuple(self.scale_jitter) != (1.0, 1.0),
            f"flip_probability {self.flip_probability}": self.flip_probability > 0,
            "blank_images": self.blank_images,
        }
        if found := [name for name, changes in changing.items() if changes]:
            raise ValueError(f"features of {self.name} cannot be computed beforehand: {found[0]} changes the images")

    @cached_property
    def feature_caches(self) -> list[FeatureCache]:
        """The opened `features`, by encoder; raises ValueError or ShardError with one line for what does not fit."""
        if self.features is None:
            return []
        self.check_fixed_view()
        caches = open_caches(Path(self.features))
        for cache in caches:
            if cache.producer.image_size != self.image_size:
                sizes = f"{cache.producer.image_size} pixels, but image_size is {self.image_size}"
                raise ShardError(f"{cache.folder}: features of images of {sizes}")
            if cache.producer.view != VIEW:
                raise ShardError(f"{cache.folder}: features of images that were laid out otherwise: make them anew")
        return caches

    def shards(self, split: str) -> Shards:
        """The opened shards of "train", "val" or "test"; raises ShardError with one line."""
        return [shard for folder in self.folders[split] for shard in open_folder(folder, self.kinds)]

    def train_dataloader(self) -> PlannedLoader:
        shards = self.shards("train")
        plan = Plan([[shard.samples for shard in shards]], seed=self.seed, samples=self.samples_per_epoch)
        return make_loader(self, [self], [shards], plan, training=True)

    def evaluation_loader(self, split: str) -> PlannedLoader:
        shards = self.shards(split)
        plan = Plan([[shard.samples for shard in shards]], seed=None)
        return make_loader(self, [self], [shards], plan, training=False)

    def state_dict(self) -> dict[str, Any]:
        """A checkpoint carries the tokenizer, so that it can be used without the data."""
        return {"tokenizer": self.tokenizer.to_json()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["tokenizer"] != self.tokenizer.to_json():
            raise ValueError(f"the checkpoint was trained with another tokenizer than {self.tokenizer.path}")


def check_multiple(length_multiple: int) -> None:
    """ValueError for a number that lengths cannot be multiples of."""
    if length_multiple < 1:
        raise ValueError(f"length_multiple must be at least 1, got {length_multiple}")


def make_loader(
    module: Any, sources: Sequence[ShardDataModule], shards: Sequence[Shards], plan: Plan, training: bool
) -> PlannedLoader:
    """A loader over one or several sources for this rank of the module's trainer.

    module: the data module in charge; gives batch_size, num_workers, seed, strict, streaming, length_multiple and the
        trainer.
    In training the last incomplete global batch is left out; in evaluation it is filled up by repeated samples.
    """
    trainer = module.trainer
    rank, world = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
    batches = plan.samples // (module.batch_size * world)
    if not training:
        batches = -(-plan.samples // (module.batch_size * world))
    elif not batches:
        raise ValueError(
            f"{plan.samples} training images are less than one global batch of {module.batch_size} x {world}"
        )
    source = StreamedSource if training and module.streaming else PlannedSource
    return PlannedLoader(
        source(shards, plan, module.batch_size, batches, rank, world),
        [source.make_sample(training) for source in sources],
        [source.name for source in sources],
        canvas=sources[0].image_size,
        pad_id=sources[0].tokenizer.pad_id,
        seed=module.seed,
        num_workers=module.num_workers,
        pin_memory=torch.cuda.is_available(),
        strict=module.strict or not training,
        length_multiple=module.length_multiple,
    )
