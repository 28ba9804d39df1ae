"""Every task learns: a few steps on one small batch make its loss fall, and what is frozen stays as it was."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from datamodules.base import ShardDataModule
from datamodules.image_captions import ImageCaptionDataModule
from datamodules.instances import InstancesDataModule
from pixel_llm.core.sam import Sam
from pixel_llm.tasks.attribute_pretraining import AttributePretraining
from pixel_llm.tasks.base import Task
from pixel_llm.tasks.image_captioning import ImageCaptioning
from pixel_llm.tasks.promptable_segmentation import PromptableSegmentation
from pixel_llm.tasks.text_pretraining import TextPretraining
from tests.runs import OneBatch, fit, tiny_optimizer, tiny_task
from tests.tiny import tiny_core, tiny_sam_encoder, tiny_t5, toy_narratives

STEPS = 12
ATTRIBUTES = [
    ["small", "medium", "large"],
    ["red", "orange", "yellow", "green", "blue", "purple", "white", "black"],
]


def shards(kind: str, toy: Path) -> dict[str, Any]:
    folders = {f"{split}_shards": [str(toy / f"{kind}_{split}")] for split in ("train", "val", "test")}
    return folders | {"tokenizer": str(toy / "tokenizer"), "image_size": 64, "batch_size": 2, "num_workers": 0}


def captions(toy: Path, **changes: Any) -> ImageCaptionDataModule:
    return ImageCaptionDataModule(**shards("narratives", toy), **changes)


def instances(toy: Path, **changes: Any) -> InstancesDataModule:
    return InstancesDataModule(**shards("instances", toy), **changes)


def sam() -> Sam:
    torch.manual_seed(0)
    return Sam(tiny_sam_encoder(), decoder_depth=1, decoder_heads=2)


# task, its data, and what share of the first loss may be left
TASKS: dict[str, tuple[Callable[[], Task], Callable[[Path], ShardDataModule], float]] = {
    "trace captioning": (tiny_task, lambda toy: toy_narratives(toy, batch_size=2), 0.8),
    "image captioning": (lambda: ImageCaptioning(tiny_core(), tiny_optimizer()), captions, 0.8),
    "promptable segmentation": (lambda: PromptableSegmentation(sam(), tiny_optimizer()), instances, 0.8),
    "attribute pretraining": (
        lambda: AttributePretraining(tiny_core(), tiny_optimizer(), attributes=[3, 8]),
        lambda toy: instances(toy, attributes=ATTRIBUTES), 0.8,
    ),
    "text pretraining": (
        lambda: TextPretraining(tiny_t5(), tiny_optimizer()), lambda toy: captions(toy, split_prefix=True), 0.8,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TASKS)
def test_the_loss_falls(toy: Path, tmp_path: Path, name: str) -> None:
    task, data, left = TASKS[name]
    losses = fit(task(), OneBatch(data(toy), STEPS), tmp_path, STEPS)
    assert losses[-1] < left * losses[0]


class Watch(L.Callback):
    """Looks in the middle of a training."""

    def __init__(self) -> None:
        self.modes: set[tuple[bool, bool]] = set()
        self.optimized: set[int] = set()

    def on_before_zero_grad(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        core = pl_module.core
        frozen = [*core.sam_encoder.modules(), *core.prompt_encoder.modules()]
        self.modes |= {(core.tuned_encoder.training, module.training) for module in core.sam_encoder.modules()}
        self.optimized |= {id(p) for group in optimizer.param_groups for p in group["params"]}
        self.optimized |= {id(p) for p in optimizer.state}
        assert all(p.grad is None for module in frozen for p in module.parameters())


def test_frozen_parts_stay_as_they_were(toy: Path, tmp_path: Path) -> None:
    task, watch = tiny_task(), Watch()
    before = {name: value.clone() for name, value in task.state_dict().items()}
    fit(task, toy_narratives(toy), tmp_path, 3, callbacks=[watch])
    after = task.state_dict()
    frozen = {name for name in before if name.startswith(("core.sam_encoder.", "core.prompt_encoder."))}
    assert {name for name in before if torch.equal(before[name], after[name])} == frozen
    assert watch.modes == {(True, False)}
    assert watch.optimized == {id(p) for p in task.parameters() if p.requires_grad}
    assert not watch.optimized & {id(p) for p in task.core.sam_encoder.parameters()}


@pytest.mark.parametrize("name", ["image captioning", "attribute pretraining"])
def test_pretraining_leaves_the_parts_it_does_not_teach(toy: Path, tmp_path: Path, name: str) -> None:
    make, data, _ = TASKS[name]
    task = make()
    untouched = ["core.sam_encoder.", "core.prompt_encoder.", "core.location_head."]
    if name == "attribute pretraining":
        untouched.append("core.language_model.")
    before = {name: value.clone() for name, value in task.state_dict().items()}
    fit(task, OneBatch(data(toy), 2), tmp_path, 2)
    same = {key for key, value in task.state_dict().items() if torch.equal(value, before[key])}
    assert same == {key for key in before if key.startswith(tuple(untouched))}
