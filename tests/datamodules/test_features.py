"""Data modules with features: refused, in one line, wherever they would not be those of the images shown."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from datamodules.dialogues_conversations import ConversationDialoguesDataModule
from datamodules.mixture import MixtureDataModule
from datamodules.prepare.llava import open_texts
from datamodules.prepare.shards import write_shards
from datamodules.shard_index import ShardError
from tests.datamodules.prepare.test_features import write
from tests.tiny import toy_narratives, toy_referring


@pytest.fixture(scope="module")
def features(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Features of the training and validation images of the toy world, not of its test images."""
    out = tmp_path_factory.mktemp("features")
    write(toy, out, "narratives_train", "narratives_val")
    return str(out)


CHANGING = {
    "jitter": ({"scale_jitter": (0.5, 1.0)}, "scale_jitter [0.5, 1.0] changes the images"),
    "flips": ({"flip_probability": 0.5}, "flip_probability 0.5 changes the images"),
    "blank": ({"blank_images": True}, "blank_images changes the images"),
}


@pytest.mark.parametrize("name", CHANGING)
def test_images_that_change_have_no_features(toy: Path, features: str, name: str) -> None:
    changes, message = CHANGING[name]
    module = toy_narratives(toy, features=features, **changes)
    for loader in (module.train_dataloader, module.val_dataloader):
        with pytest.raises(ValueError, match=re.escape(message)):
            loader()


def test_images_of_another_size_have_other_features(toy: Path, features: str) -> None:
    with pytest.raises(ShardError, match="features of images of 64 pixels, but image_size is 96"):
        toy_narratives(toy, features=features, image_size=96).train_dataloader()


def test_an_image_without_features_is_named_and_what_to_do(toy: Path, features: str) -> None:
    loader = toy_narratives(toy, features=features).test_dataloader()
    line = rf"narratives_test/shard-00000\.tar, toy_test_\d: no features of this image in {features}: "
    with pytest.raises(ShardError, match=line + f"run `pixel-llm prepare features --config CONFIG --out {features}`"):
        next(iter(loader))


def test_a_text_about_no_image_goes_with_images_that_have_features(toy: Path, features: str, tmp_path: Path) -> None:
    talk = [{"from": "human", "value": "why?"}, {"from": "gpt", "value": "so"}]
    (tmp_path / "mix.json").write_text(json.dumps([{"conversations": talk}]))
    write_shards(open_texts([tmp_path / "mix.json"]), tmp_path, tmp_path / "texts")
    folders = {"train_shards": [str(tmp_path / "texts")], "val_shards": [], "test_shards": []}
    texts = ConversationDialoguesDataModule(**folders, tokenizer=str(toy / "tokenizer"), image_size=64)
    settings = {"single_source_batches": False, "batch_size": 8, "num_workers": 0, "features": features}
    module = MixtureDataModule([toy_narratives(toy), texts], [1, 1], **settings)
    batch = next(iter(module.train_dataloader()))
    [made] = batch.features.values()
    assert {source: bool(one.any()) for source, one in zip(batch.sources, made, strict=True)} == {
        "localized_narratives": True, "conversation_dialogues": False,
    }  # fmt: skip


def test_a_shard_of_features_cut_short_while_in_use_is_named(toy: Path, tmp_path: Path) -> None:
    write(toy, tmp_path)
    batches = iter(toy_narratives(toy, features=str(tmp_path)).train_dataloader())
    next(batches)
    for shard in tmp_path.glob("*.tar"):
        shard.write_bytes(b"short")
    with pytest.raises(ShardError, match=r"shard-0000\d\.tar: the shard was cut short"):
        next(batches)


@pytest.mark.parametrize("folder", ["narratives_train", "nothing"])
def test_a_folder_that_holds_no_features(toy: Path, folder: str) -> None:
    with pytest.raises(ShardError, match=rf"{folder} holds no features|no features in .*{folder}: run `pixel-llm"):
        toy_narratives(toy, features=str(toy / folder)).train_dataloader()


def mixture(toy: Path, ours: dict[str, Any], theirs: dict[str, Any], **changes: Any) -> MixtureDataModule:
    sources = [toy_narratives(toy, **ours), toy_referring(toy, **theirs)]
    return MixtureDataModule(sources, weights=[1, 1], batch_size=4, num_workers=0, **changes)


def test_sources_of_a_mixture_share_features(toy: Path, features: str) -> None:
    for single in (True, False):
        module = mixture(toy, {}, {}, features=features, single_source_batches=single)
        batches = list(module.train_dataloader())
        assert {source for batch in batches for source in batch.sources} == {"localized_narratives", "referring"}
        assert all(len(batch.features["encoder"]) == 4 for batch in batches)
        assert len(next(iter(module.val_dataloader())).features["encoder"]) == 4


def test_one_source_of_a_mixture_has_features(toy: Path, features: str) -> None:
    """Such as the one whose images do not change; a batch that mixes both could not be stacked."""
    ours, theirs = {"features": features}, {"scale_jitter": (0.5, 1.0)}
    for batch in mixture(toy, ours, theirs).train_dataloader():
        assert bool(batch.features) == (batch.sources[0] == "localized_narratives")
    with pytest.raises(ValueError, match="where batches mix sources, all of them need features, or none"):
        mixture(toy, ours, theirs, single_source_batches=False)
