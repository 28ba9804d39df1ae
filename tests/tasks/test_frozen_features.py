"""Training on features computed beforehand: the same training, without the encoder, or one line that says why not."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from datamodules.features import Producer
from datamodules.instances import InstancesDataModule
from datamodules.prepare.features import Pictures, write_features
from datamodules.shard_index import open_shards
from pixel_llm.core.layers import StochasticDepth
from pixel_llm.core.sam import Sam
from pixel_llm.tasks.base import PixelLLMTask
from pixel_llm.tasks.promptable_segmentation import PromptableSegmentation
from pixel_llm.weights.frozen_encoder import encoder_fingerprint, frozen_encoder
from tests.runs import fit, tiny_optimizer, tiny_task, tiny_trainer
from tests.tasks.test_joint import Steps, joint, mixture
from tests.tiny import tiny_core, tiny_sam_encoder, toy_narratives


def rounded(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    """A forward hook: what the encoder says, as a cache holds it."""
    return output.bfloat16().to(output.dtype)


def never(module: nn.Module, inputs: Any) -> None:
    raise AssertionError("the encoder ran")


@pytest.fixture(scope="module")
def features(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the SAM encoder of `tiny_core` makes of the toy world's training and validation images."""
    encoder, out = tiny_core().sam_encoder, tmp_path_factory.mktemp("features")
    shards = [shard for split in ("train", "val") for shard in open_shards(toy / f"narratives_{split}")]
    producer = Producer("sam_encoder", encoder_fingerprint(encoder), 64, channels=16, height=4, width=4)
    write_features(Pictures.of(shards, 64), out, producer, torch.no_grad()(encoder), batch_size=7)
    return str(out)


def test_the_losses_are_those_of_rounded_features_to_the_last_bit(toy: Path, tmp_path: Path, features: str) -> None:
    exact, cut, cached = (tiny_task(dropout=0.3) for _ in range(3))
    cut.core.sam_encoder.register_forward_hook(rounded)
    cached.core.sam_encoder.register_forward_pre_hook(never)
    wanted = fit(cut, toy_narratives(toy), tmp_path, 8)
    assert fit(cached, toy_narratives(toy, features=features), tmp_path, 8) == wanted
    assert all(torch.equal(a, b) for a, b in zip(cut.parameters(), cached.parameters(), strict=True))
    plain = fit(exact, toy_narratives(toy), tmp_path, 8)
    assert plain != wanted
    assert plain == pytest.approx(wanted, rel=2**-8)


def test_a_joint_training_reads_them_for_all_its_tasks(toy: Path, tmp_path: Path, features: str) -> None:
    def losses(**settings: Any) -> list[float]:
        task, steps = joint(), Steps()
        if settings:
            task.core.sam_encoder.register_forward_pre_hook(never)
        task.core.sam_encoder.register_forward_hook(rounded)
        found = fit(task, mixture(toy, **settings), tmp_path, 10, [steps])
        assert len(set(steps.sources)) > 2
        return found

    assert losses(features=features) == losses()


def test_evaluation_reads_them_too(toy: Path, tmp_path: Path, features: str) -> None:
    figures = []
    for settings in ({}, {"features": features}):
        task = tiny_task()
        task.core.sam_encoder.register_forward_hook(rounded)
        if settings:
            task.core.sam_encoder.register_forward_pre_hook(never)
        trainer = tiny_trainer(tmp_path, 1, limit_val_batches=1.0)
        figures.append(trainer.validate(task, toy_narratives(toy, **settings), verbose=False))
    assert figures[0] == figures[1]


def moved(task: PixelLLMTask) -> None:
    with torch.no_grad():
        next(task.core.sam_encoder.neck.parameters()).mul_(1.1)  # type: ignore[operator, union-attr]


def thawed(task: PixelLLMTask) -> None:
    task.core.sam_encoder.requires_grad_(True)


def random(task: PixelLLMTask) -> None:
    task.core.sam_encoder.blocks[1].drop_path = StochasticDepth(0.5)  # type: ignore[index, operator, union-attr]


def other_pixels(task: PixelLLMTask) -> None:
    task.core.sam_encoder.mean += 1


UNFIT = {
    "other weights": (moved, "features of a sam_encoder with other weights"),
    "other statistics of pixels": (other_pixels, "features of a sam_encoder with other weights"),
    "it trains": (thawed, "sam_encoder trains in this configuration"),
    "it is random": (random, r"sam_encoder drops paths at random in training \(drop_path 0\.5\)"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_an_encoder_that_the_features_are_not_of(toy: Path, tmp_path: Path, features: str, name: str) -> None:
    change, message = UNFIT[name]
    task = tiny_task()
    change(task)
    with pytest.raises(ValueError, match=message):
        fit(task, toy_narratives(toy, features=features), tmp_path, 1)
    task = tiny_task()
    change(task)
    with pytest.raises(ValueError, match=message):
        tiny_trainer(tmp_path, 1, limit_val_batches=1).validate(task, toy_narratives(toy, features=features))


def test_a_task_that_trains_its_encoder_has_no_use_for_features(toy: Path, tmp_path: Path, features: str) -> None:
    task = PromptableSegmentation(Sam(tiny_sam_encoder(), decoder_depth=1, decoder_heads=2), tiny_optimizer())
    shards = {f"{split}_shards": [str(toy / f"instances_{split}")] for split in ("train", "val", "test")}
    data = InstancesDataModule(
        **shards, tokenizer=str(toy / "tokenizer"), image_size=64, batch_size=4, num_workers=0, features=features
    )
    with pytest.raises(ValueError, match="Sam has no sam_encoder whose features could be computed beforehand"):
        fit(task, data, tmp_path, 1)


def test_weights_of_a_checkpoint_are_what_counts(toy: Path, tmp_path: Path, features: str) -> None:
    """The model starts with other weights than the features; the checkpoint's are right, and the other way round."""
    save = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    losses = fit(tiny_task(), toy_narratives(toy, features=features), tmp_path, 3, [save], enable_checkpointing=True)
    other = tiny_task()
    moved(other)
    data = toy_narratives(toy, features=features)
    assert fit(other, data, tmp_path, 3, ckpt_path=tmp_path / "step=1.ckpt") == losses[1:]
    wrong = torch.load(tmp_path / "step=1.ckpt", weights_only=True)
    wrong["state_dict"]["core.sam_encoder.neck.0.weight"] *= 1.1
    torch.save(wrong, tmp_path / "wrong.ckpt")
    with pytest.raises(ValueError, match="features of a sam_encoder with other weights"):
        fit(tiny_task(), toy_narratives(toy, features=features), tmp_path, 3, ckpt_path=tmp_path / "wrong.ckpt")


def test_an_encoder_is_known_in_any_precision() -> None:
    encoder = frozen_encoder(tiny_core(), "sam_encoder")
    half = copy.deepcopy(encoder).bfloat16()
    assert encoder_fingerprint(half) == encoder_fingerprint(encoder)
    with torch.no_grad():
        encoder.pos_embed[0, 1, 2, 3] += 0.01  # type: ignore[index, operator]
    assert encoder_fingerprint(half) != encoder_fingerprint(encoder)
