"""Distillation from caches of its teachers: the same training without them, or one line that says why not."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from datamodules.dialogues_conversations import ConversationDialoguesDataModule
from datamodules.dialogues_referring import ReferringDialoguesDataModule
from datamodules.features import Producer, open_caches
from datamodules.mixture import MixtureDataModule
from datamodules.prepare.features import Pictures, write_features
from datamodules.prepare.shards import write_shard
from datamodules.shard_index import Manifest, ShardError, open_shards, write_manifest
from pixel_llm.core.conv_encoder import ConvEncoder
from pixel_llm.core.image_encoder import ImageEncoder
from pixel_llm.pixel_sail.distillation import CachedFeatures, Distillation, FrozenEncoder, Teacher
from pixel_llm.tasks.pixel_sail import Dialogues
from pixel_llm.weights.frozen_encoder import encoder_fingerprint
from tests.runs import fit, tiny_trainer
from tests.tasks.test_dialogues import settings, task
from tests.tasks.test_frozen_features import never, rounded
from tests.tiny import tiny_sam_encoder

CHANNELS = {"sam": 16, "expert": 12}


def expert(name: str) -> ImageEncoder:
    torch.manual_seed(3)
    encoder = tiny_sam_encoder() if name == "sam" else ConvEncoder(width=12, stride=8, blocks=1, heads=2)
    return encoder.freeze()


def distilled(toy: Path, sam: Teacher, other: Teacher) -> Dialogues:
    """The teachers are made when training begins, and each of them once."""
    return task(toy, distillation=lambda *widths: Distillation(*widths, lambda: sam, lambda: other))


def online(toy: Path) -> Dialogues:
    return distilled(toy, *(FrozenEncoder(expert(name), name) for name in CHANNELS))


def encoders(model: Dialogues) -> list[ImageEncoder]:
    torch.manual_seed(4)  # of the adapters, which are made here
    return list(model.frozen_encoders().values())


@pytest.fixture(scope="module")
def features(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What both teachers make of the toy world's training images, and of no others."""
    out = tmp_path_factory.mktemp("features")
    for name, channels in CHANNELS.items():
        encoder = expert(name)
        side = 4 if name == "sam" else 8
        producer = Producer(name, encoder_fingerprint(encoder), 64, channels, side, side)
        shards = list(open_shards(toy / "toy_unc_train"))
        write_features(Pictures.of(shards, 64), out / name, producer, torch.no_grad()(encoder), batch_size=7)
    return str(out)


def referring(toy: Path, **changes: Any) -> ReferringDialoguesDataModule:
    return ReferringDialoguesDataModule(**settings(toy) | changes)


def test_the_losses_are_those_of_rounded_features_to_the_last_bit(toy: Path, tmp_path: Path, features: str) -> None:
    exact, cut, cached = (online(toy) for _ in range(3))
    encoders(exact)
    for encoder in encoders(cut):
        encoder.register_forward_hook(rounded)
    for encoder in encoders(cached):
        encoder.register_forward_pre_hook(never)
    wanted = fit(cut, referring(toy), tmp_path, 4)
    assert fit(cached, referring(toy, features=features), tmp_path, 4) == wanted
    assert all(torch.equal(a, b) for a, b in zip(cut.core.parameters(), cached.core.parameters(), strict=True))
    plain = fit(exact, referring(toy), tmp_path, 4)
    assert plain != wanted
    assert plain == pytest.approx(wanted, rel=2**-8)


def test_teachers_need_not_be_there(toy: Path, tmp_path: Path, features: str) -> None:
    """Not even while training starts: adapters begin as beside a teacher, whatever it draws while it is made."""

    def drawing(name: str) -> FrozenEncoder:
        torch.rand(7)
        return FrozenEncoder(expert(name), name)

    def losses(make: Any) -> list[float]:
        lessons = [lambda name=name: make(name) for name in CHANNELS]
        return fit(
            task(toy, distillation=lambda *widths: Distillation(*widths, *lessons)),
            referring(toy, features=features), tmp_path, 2,
        )  # fmt: skip

    assert losses(lambda name: CachedFeatures(name, CHANNELS[name])) == losses(drawing)
    weights = {name: encoder_fingerprint(expert(name)) for name in CHANNELS}
    assert len(losses(lambda name: CachedFeatures(name, CHANNELS[name], weights[name]))) == 2


def test_one_teacher_may_be_cached_and_the_other_online(toy: Path, tmp_path: Path, features: str) -> None:
    model = distilled(toy, CachedFeatures("sam", 16), FrozenEncoder(expert("expert"), "expert"))
    [encoder] = encoders(model)
    encoder.register_forward_hook(rounded)
    alone = referring(toy, features=str(Path(features) / "sam"))
    both = distilled(toy, *(CachedFeatures(name, channels) for name, channels in CHANNELS.items()))
    encoders(both)
    assert fit(model, alone, tmp_path, 2) == fit(both, referring(toy, features=features), tmp_path, 2)


def test_a_test_reads_no_features_of_teachers(toy: Path, tmp_path: Path, features: str) -> None:
    """The cache has none of the test images; teachers that are not made cannot be compared."""
    model = online(toy)
    tiny_trainer(tmp_path, 1, limit_test_batches=1).test(model, referring(toy, features=features), verbose=False)
    assert model.distillation is None


class Features:
    """A callback's place to see what a batch brings."""

    def __init__(self) -> None:
        self.seen: list[tuple[Tensor, Tensor]] = []

    def __call__(self, module: nn.Module, inputs: Any) -> None:
        *_, sizes, found = inputs
        self.seen.append((sizes, found["sam"]))


def test_texts_without_an_image_bring_nothing_and_change_nothing(toy: Path, tmp_path: Path, features: str) -> None:
    said = {"dataset_id": "chat", "image_id": "", "turns": [{"question": "the ring", "answer": "a red ring"}]}
    (tmp_path / "chat").mkdir()
    texts = ((f"{number:02d}", {"json": json.dumps(said).encode()}) for number in range(24))
    entry = write_shard(tmp_path / "chat/shard-00000.tar", texts)
    write_manifest(tmp_path / "chat", Manifest({"kind": "llava"}, [entry]))
    shards = {f"{split}_shards": [str(tmp_path / "chat")] for split in ("train", "val", "test")}
    chat = ConversationDialoguesDataModule(**settings(toy) | shards)
    mixed = {"single_source_batches": False, "batch_size": 4, "num_workers": 0, "features": features}
    model, features_seen = online(toy), Features()
    encoders(model)
    assert model.distillation is not None
    model.distillation.register_forward_pre_hook(features_seen)
    losses = fit(model, MixtureDataModule([referring(toy), chat], [1, 1], **mixed), tmp_path, 4)
    assert all(loss == loss for loss in losses)
    sizes, given = (torch.cat(values) for values in zip(*features_seen.seen, strict=True))
    some = sizes.any(1)
    assert some.any()
    assert not some.all()
    assert torch.equal(given.flatten(1).any(1), some)


REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "augmentation": (online, {"flip_probability": 0.5}, "cannot be computed beforehand: flip_probability 0.5"),
    "a crop": (online, {"scale_jitter": (0.5, 1.0)}, r"cannot be computed beforehand: scale_jitter \[0.5, 1.0\]"),
    "another size": (online, {"image_size": 96}, "features of images of 64 pixels, but image_size is 96"),
    "no teachers": (task, {}, "features of expert, which this model has no use for"),
    "other channels": (
        lambda toy: distilled(toy, CachedFeatures("sam", 8), CachedFeatures("expert", 12)),
        {},
        "16 channels of sam, not the expected 8",
    ),
    "other weights": (
        lambda toy: distilled(toy, CachedFeatures("sam", 16), CachedFeatures("expert", 12, "0123")),
        {},
        r"features of a expert with other weights \([0-9a-f]{16}, here 0123\)",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_cache_that_is_not_the_teachers_is_refused(toy: Path, tmp_path: Path, features: str, name: str) -> None:
    make, changes, message = REFUSED[name]
    with pytest.raises((ValueError, ShardError), match=message):
        fit(make(toy), referring(toy, features=features, **changes), tmp_path, 1)


def test_a_teacher_that_reads_another_size_is_another_one(toy: Path, tmp_path: Path, features: str) -> None:
    model = online(toy)
    model.frozen_encoders()["sam"].resized_to = 128
    with pytest.raises(ValueError, match="features of a sam with other weights"):
        fit(model, referring(toy, features=features), tmp_path, 1)


def test_two_teachers_have_two_names() -> None:
    with pytest.raises(ValueError, match="both teachers are called sam"):
        Distillation(8, 8, lambda: CachedFeatures("sam", 16), lambda: CachedFeatures("sam", 16))


def test_a_folder_of_caches_says_whose_they_are(toy: Path, tmp_path: Path, features: str) -> None:
    assert [cache.producer.name for cache in open_caches(Path(features))] == ["expert", "sam"]
    assert [cache.producer.name for cache in open_caches(Path(features) / "sam")] == ["sam"]
    (tmp_path / "other").symlink_to(Path(features) / "sam")
    with pytest.raises(ShardError, match="other holds features of sam: give it that name"):
        open_caches(tmp_path)
    with pytest.raises(ShardError, match=f"no features of this image in {features}/expert: run .* --out {features}`"):
        open_caches(Path(features))[0].read(b"no such picture", "a")
