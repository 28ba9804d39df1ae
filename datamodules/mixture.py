"""Several data sets in one training stream, each with its weight."""

from typing import Any

from datamodules.base import EvaluationLoaders, ShardDataModule, check_multiple, make_loader
from datamodules.features import FeatureCache
from datamodules.loader import PlannedLoader
from datamodules.plan import Plan


class MixtureDataModule(EvaluationLoaders):
    """Draws training images from several data modules.

    sources: the data modules; they must agree on tokenizer and image size. Their own batch_size, num_workers, seed,
        samples_per_epoch, strict, streaming and length_multiple have no effect here.
    weights: how often each source is drawn, in any scale.
    repeats: in place of weights, how many times each image of each source is in a training epoch; exactly so many
        where batches mix sources, and otherwise to a batch or two. With neither, every image is in it once.
    single_source_batches: every global batch comes from one source (the published recipe); otherwise images mix.
    samples_per_epoch: images in a training epoch; default all images of all sources together, with their repeats.
    evaluate_each: evaluate on the first source of each kind that has shards for it, one after the other, for a task
        that takes all kinds; else on the first source alone.
    strict, streaming, length_multiple: see `ShardDataModule`.
    features: see `ShardDataModule`; for the sources that name none of their own.
    """

    def __init__(
        self,
        sources: list[ShardDataModule],
        weights: list[float] | None = None,
        single_source_batches: bool = True,
        batch_size: int = 32,
        num_workers: int = 2,
        seed: int = 0,
        samples_per_epoch: int | None = None,
        evaluate_each: bool = False,
        strict: bool = False,
        streaming: bool = False,
        length_multiple: int = 1,
        features: str | None = None,
        repeats: list[int] | None = None,
    ) -> None:
        super().__init__()
        check_multiple(length_multiple)
        first = sources[0]
        for source in sources[1:]:
            if source.tokenizer.to_json() != first.tokenizer.to_json() or source.image_size != first.image_size:
                raise ValueError(f"sources {first.name} and {source.name} differ in tokenizer or image_size")
        for source in sources:
            source.features = source.features or features
        if not single_source_batches and len({source.features is None for source in sources}) > 1:
            raise ValueError("features: where batches mix sources, all of them need features, or none")
        self.sources, self.weights, self.repeats = sources, weights, repeats
        self.single_source_batches = single_source_batches
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.samples_per_epoch, self.evaluate_each = samples_per_epoch, evaluate_each
        self.strict, self.streaming, self.length_multiple = strict, streaming, length_multiple
        self.tokenizer, self.image_size = first.tokenizer, first.image_size

    def train_dataloader(self) -> PlannedLoader:
        shards = [source.shards("train") for source in self.sources]
        world = self.trainer.world_size if self.trainer else 1
        plan = Plan(
            [[shard.samples for shard in source] for source in shards],
            self.weights,
            self.seed,
            self.samples_per_epoch,
            run=self.batch_size * world if self.single_source_batches else 1,
            repeats=self.repeats,
        )
        return make_loader(self, self.sources, shards, plan, training=True)

    def evaluation_loader(self, split: str) -> PlannedLoader | list[PlannedLoader]:
        if not self.evaluate_each:
            return self._evaluation_loader(self.sources[0], split)
        first: dict[str, ShardDataModule] = {}
        for source in self.sources:
            if source.folders[split]:
                first.setdefault(source.name, source)
        return [self._evaluation_loader(source, split) for source in first.values()]

    def _evaluation_loader(self, source: ShardDataModule, split: str) -> PlannedLoader:
        shards = source.shards(split)
        plan = Plan([[shard.samples for shard in shards]], seed=None)
        return make_loader(self, [source], [shards], plan, training=False)

    @property
    def feature_caches(self) -> list[FeatureCache]:
        """All that the batches' features come from."""
        return [cache for source in self.sources for cache in source.feature_caches]

    def state_dict(self) -> dict[str, Any]:
        return self.sources[0].state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sources[0].load_state_dict(state)
