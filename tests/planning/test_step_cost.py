"""The cost of a step that is not taken, against steps that are."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from callbacks.activation_checkpointing import ActivationCheckpointing
from datamodules.base import ShardDataModule
from datamodules.dialogues_referring import ReferringDialoguesDataModule
from datamodules.dialogues_regions import RegionDialoguesDataModule
from pixel_llm.core.proposal_head import ProposalHead
from pixel_llm.pixel_sail.distillation import Distillation, FrozenEncoder
from pixel_llm.planning.step_cost import step_cost
from pixel_llm.structures import Batch
from pixel_llm.tasks.base import Task
from pixel_llm.tasks.dense_captioning import DenseCaptioning
from pixel_llm.tasks.referring_localization import ReferringLocalization
from pixel_llm.tasks.region_captioning import RegionCaptioning
from pixel_llm.tasks.trace_captioning import TraceCaptioning
from tests.runs import PROPOSAL_HEAD, tiny_optimizer, tiny_trainer
from tests.tasks.test_dialogues import settings
from tests.tasks.test_dialogues import task as single_transformer
from tests.tiny import tiny_core, tiny_git, tiny_sam_encoder, tiny_t5, toy_narratives, toy_referring, toy_regions


def referring(toy: Path) -> Task:
    return ReferringLocalization(tiny_core(mask_adapter="embedding"), tiny_optimizer(), segment=True)


def dense(toy: Path) -> Task:
    head = partial(ProposalHead, **PROPOSAL_HEAD["init_args"])
    return DenseCaptioning(tiny_core(proposal_head=head), tiny_optimizer())


def dialogues(toy: Path) -> Task:
    teacher = FrozenEncoder(tiny_sam_encoder(), "sam")
    made = single_transformer(toy, distillation=lambda *widths: Distillation(*widths, lambda: teacher))
    made.make_training_parts()
    return made


def asked(toy: Path) -> ShardDataModule:
    return ReferringDialoguesDataModule(**settings(toy))


def marked(toy: Path) -> ShardDataModule:
    return RegionDialoguesDataModule(**settings(toy))


CASES: dict[str, tuple[Callable[[Path], Task], Callable[..., ShardDataModule]]] = {
    "git": (lambda _: TraceCaptioning(tiny_core(tiny_git()), tiny_optimizer()), toy_narratives),
    "lora": (lambda _: TraceCaptioning(tiny_core(tiny_t5("lora")), tiny_optimizer()), toy_narratives),
    "regions": (lambda _: RegionCaptioning(tiny_core(), tiny_optimizer()), toy_regions),
    "masks": (referring, partial(toy_referring, masks=True)),
    "dense": (dense, toy_regions),
    "dialogues with masks": (dialogues, asked),
    "dialogues about regions": (dialogues, marked),
}

# torch counts the gradient of a depthwise convolution's weight as if every channel met every other one: of the mask
# head's, in operations x images x 3 x 3 x cells x pairs of channels
DENSE_DEPTHWISE = 2 * 4 * 9 * 16**2 * (32 * 32 - 32)


def taken(task: Task, batch: Batch) -> tuple[int, int]:
    """Operations, and bytes that a real step on the CPU saves for its backward pass."""
    kept: dict[int, Any] = {}
    weights = {p.untyped_storage()._cdata for p in task.parameters()}
    task.train()
    task.log = lambda *_, **__: None  # type: ignore[method-assign]

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage
        return tensor

    with FlopCounterMode(display=False) as counter, torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        task.training_step(batch, 0).backward()
    return counter.get_total_flops(), sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("name", CASES)
def test_operations_and_memory_are_those_of_a_real_step(toy: Path, name: str) -> None:
    """But for attention: a CPU holds the weights of an attention that has a mask, and counts its gradient."""
    make, data = CASES[name]
    task, batch = make(toy), next(iter(data(toy).train_dataloader()))
    state, weights = torch.get_rng_state(), {n: p.clone() for n, p in task.state_dict().items()}
    cost = step_cost(task, batch)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(weights[n], p) for n, p in task.state_dict().items())
    assert {p.device.type for p in task.parameters()} == {"cpu"}
    operations, kept = taken(task, batch)
    if name.startswith("dialogues"):
        operations -= DENSE_DEPTHWISE
    assert cost.forward + cost.backward == pytest.approx(operations, rel=0.03)
    assert 0.8 * kept < cost.activations < 1.03 * kept
    if name == "git":
        assert cost.forward + cost.backward == operations
        assert cost.activations == pytest.approx(kept, rel=0.002)
    assert cost.weight_copies == 0


def test_activation_checkpointing_keeps_less_and_computes_again(toy: Path) -> None:
    task = TraceCaptioning(tiny_core(tiny_git()), tiny_optimizer())
    batch = next(iter(toy_narratives(toy).train_dataloader()))
    plain, again = step_cost(task, batch), step_cost(task, batch, recompute=True)
    assert again.forward == plain.forward
    assert again.activations < 0.8 * plain.activations
    ActivationCheckpointing().setup(tiny_trainer(toy, steps=1), task, "fit")
    operations, outside = taken(task, batch)
    assert again.forward + again.backward == pytest.approx(operations, rel=0.02)  # torch skips the last product
    assert outside < again.activations  # what checkpoints hold themselves is not saved by autograd


class Products(nn.Module):
    """A frozen layer behind a trained one."""

    def __init__(self) -> None:
        super().__init__()
        self.trained, self.frozen = nn.Linear(64, 128, bias=False), nn.Linear(128, 32, bias=False).requires_grad_(False)


class TwoProducts(Task):
    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        pixels = batch.images.flatten(1)[:, :64].float()
        return self.core.frozen(self.core.trained(pixels)).sum()


def test_frozen_weights_have_copies_and_half_the_backward_pass(toy: Path) -> None:
    """By hand, under autocast: what an H100 would hold."""
    batch = next(iter(toy_narratives(toy).train_dataloader()))
    images = len(batch.images)
    task = TwoProducts(Products(), tiny_optimizer())
    cost = step_cost(task, batch, torch.bfloat16)
    first, second = 2 * images * 64 * 128, 2 * images * 128 * 32
    assert cost.forward == first + second
    assert cost.backward == first + second  # of the first the weight's gradient, of the second its input's
    assert cost.weight_copies == 2 * 128 * 32
    assert cost.activations == 2 * images * 64  # the input, for the trained weight
