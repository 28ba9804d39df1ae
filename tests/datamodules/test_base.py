"""What all data modules share: equal batch counts on every rank, blank images, and errors before the first step."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from datamodules.base import ShardDataModule
from datamodules.loader import PlannedLoader
from datamodules.mixture import MixtureDataModule
from datamodules.shard_index import ShardError
from pixel_llm.structures import Batch
from tests.tiny import toy_narratives


def on_rank(module: ShardDataModule, rank: int, world: int) -> ShardDataModule:
    module.trainer = SimpleNamespace(global_rank=rank, world_size=world)  # type: ignore[assignment]
    return module


@pytest.mark.parametrize("split", ["train", "val", "test", "predict"])
@pytest.mark.parametrize(("world", "batch"), [(1, 4), (3, 1), (4, 2), (5, 1)])
def test_every_rank_has_as_many_batches(toy: Path, split: str, world: int, batch: int) -> None:
    """24 training and 6 evaluation images, which most of these do not divide."""
    loaders: list[PlannedLoader] = [
        getattr(on_rank(toy_narratives(toy, batch_size=batch), rank, world), f"{split}_dataloader")()
        for rank in range(world)
    ]
    wanted = 24 // (world * batch) if split == "train" else math.ceil(6 / (world * batch))
    assert [len(loader) for loader in loaders] == [wanted] * world
    batches = [list(loader) for loader in loaders]
    assert [len(found) for found in batches] == [wanted] * world
    served = [key for found in batches for b in found for key in b.keys]
    if split == "train":
        assert len(set(served)) == len(served) == wanted * world * batch
    else:
        scored = [r.key for found in batches for b in found for r in b.references if r]
        assert len(scored) == len(set(scored)) == len(set(served)) == 6


def test_blank_images_change_nothing_but_the_pixels(toy: Path) -> None:
    def first(**changes: object) -> Batch:
        module = toy_narratives(toy, scale_jitter=(0.6, 1.6), flip_probability=0.5, **changes)
        return next(iter(module.train_dataloader()))

    shown, blank = first(), first(blank_images=True)
    assert shown.images.any()
    assert not blank.images.any()
    assert shown.targets is not None
    assert blank.targets is not None
    assert torch.equal(shown.sizes, blank.sizes)
    assert torch.equal(shown.targets.locations, blank.targets.locations)
    assert torch.equal(shown.targets.tokens, blank.targets.tokens)
    assert not next(iter(toy_narratives(toy, blank_images=True).test_dataloader())).images.any()


def test_too_few_images_for_one_global_batch_is_an_error(toy: Path) -> None:
    module = on_rank(toy_narratives(toy, batch_size=13), 0, 2)
    with pytest.raises(ValueError, match="24 training images are less than one global batch of 13 x 2"):
        module.train_dataloader()
    assert len(module.test_dataloader()) == 1


def test_the_length_of_an_epoch_can_be_chosen(toy: Path) -> None:
    module = toy_narratives(toy, batch_size=5, samples_per_epoch=60)
    keys = [key for batch in module.train_dataloader() for key in batch.keys]
    assert len(keys) == 60
    assert all(2 <= keys.count(key) <= 3 for key in set(keys))


def test_several_folders_are_one_data_set(toy: Path) -> None:
    folders = [str(toy / "narratives_val"), str(toy / "narratives_test")]
    batches = list(toy_narratives(toy, test_shards=folders).test_dataloader())
    keys = [r.key for b in batches for r in b.references if r]
    assert [key.rsplit("_", 1)[0] for key in keys] == ["toy_val"] * 6 + ["toy_test"] * 6


def test_shards_of_another_kind_are_named(toy: Path) -> None:
    module = toy_narratives(toy, train_shards=[str(toy / "instances_train")])
    with pytest.raises(ShardError, match="instances_train holds coco-instances, where localized-narratives is needed"):
        module.train_dataloader()


def test_no_shards_at_all_is_an_error(toy: Path) -> None:
    with pytest.raises(ValueError, match="no sample"):
        toy_narratives(toy, train_shards=[]).train_dataloader()


def test_a_checkpoint_of_another_tokenizer_is_refused(toy: Path) -> None:
    module = toy_narratives(toy)
    state = module.state_dict()
    module.load_state_dict(state)
    with pytest.raises(ValueError, match="trained with another tokenizer than"):
        module.load_state_dict({"tokenizer": state["tokenizer"].replace("ball", "bell") + " "})


@pytest.mark.parametrize("split", ["train", "val"])
def test_lengths_are_multiples_in_every_split_and_in_a_mixture(toy: Path, split: str) -> None:
    alone = toy_narratives(toy, sentences=True, length_multiple=5)
    mixed = MixtureDataModule([toy_narratives(toy)], [1.0], batch_size=4, num_workers=0, length_multiple=5)
    for module in (alone, mixed):
        for batch in getattr(module, f"{split}_dataloader")():
            assert batch.targets is not None
            assert batch.targets.tokens.shape[1] % 5 == 0
    with pytest.raises(ValueError, match="length_multiple must be at least 1, got 0"):
        toy_narratives(toy, length_multiple=0)
