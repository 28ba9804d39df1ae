"""AdamW as published: what decays, which learning rate each part has, and how it moves."""

import math

import pytest
import torch
from torch import nn

from pixel_llm.tasks.optimizer import AdamWSchedule, schedule
from tests.tiny import tiny_core


class TwoBlocks(nn.Module):
    """Named as a vision transformer in `tuned_encoder`, beside a head."""

    def __init__(self) -> None:
        super().__init__()
        encoder = nn.Module()
        encoder.patch_embed = nn.Module()
        encoder.patch_embed.proj = nn.Conv2d(3, 4, 2)
        encoder.pos_embed = nn.Parameter(torch.zeros(1, 5, 4))
        encoder.blocks = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.tuned_encoder = nn.Module()
        self.tuned_encoder.model = encoder
        self.head = nn.Linear(4, 2)


def settings(module: nn.Module, optimizer: AdamWSchedule) -> dict[str, tuple[float, float]]:
    """Learning rate at its peak and weight decay of every parameter by its name."""
    built, _ = optimizer.build(module, 10)
    names = {id(p): name for name, p in module.named_parameters()}
    return {names[id(p)]: (g["initial_lr"], g["weight_decay"]) for g in built.param_groups for p in g["params"]}


def test_vectors_do_not_decay() -> None:
    core = tiny_core()
    decays = {name: decay for name, (_, decay) in settings(core, AdamWSchedule(1.0, weight_decay=0.05)).items()}
    trainable = {name: p for name, p in core.named_parameters() if p.requires_grad}
    assert decays == {name: 0.0 if p.ndim == 1 else 0.05 for name, p in trainable.items()}
    assert 0.0 in decays.values()


def test_layers_of_the_tuned_encoder_learn_slower_the_deeper_they_lie() -> None:
    rates = {n: rate for n, (rate, _) in settings(TwoBlocks(), AdamWSchedule(2.0, layer_decay=0.5)).items()}
    wanted = {
        "patch_embed.proj.weight": 2 / 8, "patch_embed.proj.bias": 2 / 8, "pos_embed": 2 / 8,
        "blocks.0.weight": 2 / 4, "blocks.0.bias": 2 / 4, "blocks.1.weight": 2 / 2, "blocks.1.bias": 2 / 2,
    }  # fmt: skip
    assert rates == {f"tuned_encoder.model.{n}": r for n, r in wanted.items()} | {"head.weight": 2.0, "head.bias": 2.0}


def test_multipliers_multiply() -> None:
    optimizer = AdamWSchedule(1.0, multipliers={"tuned_encoder": 0.5, "blocks.1": 0.1}, layer_decay=0.5)
    rates = {name: rate for name, (rate, _) in settings(TwoBlocks(), optimizer).items()}
    assert rates["tuned_encoder.model.blocks.1.weight"] == pytest.approx(0.5 * 0.1 * 0.5)
    assert rates["tuned_encoder.model.pos_embed"] == pytest.approx(0.5 / 8)
    assert rates["head.weight"] == 1.0


def test_frozen_parameters_are_left_out() -> None:
    module = TwoBlocks()
    module.head.requires_grad_(False)
    assert not any(name.startswith("head") for name in settings(module, AdamWSchedule()))


@pytest.mark.parametrize(
    ("step", "warmup", "total", "factor"),
    [
        (0, 10, 110, 0.0), (5, 10, 110, 0.5), (10, 10, 110, 1.0), (60, 10, 110, 0.5), (110, 10, 110, 0.0),
        (35, 10, 110, 0.5 * (1 + math.cos(math.pi / 4))), (200, 10, 110, 0.0), (0, 0, 10, 1.0), (5, 0, 10, 0.5),
        (3, 10, 5, 0.3),
    ],
)  # fmt: skip
def test_the_schedule_warms_up_and_falls_along_a_cosine(step: int, warmup: int, total: int, factor: float) -> None:
    assert schedule(step, warmup, total) == pytest.approx(factor, abs=1e-12)


def test_the_optimizer_follows_the_schedule() -> None:
    module = nn.Linear(2, 2)
    optimizer, scheduler = AdamWSchedule(3.0, warmup_steps=2).build(module, 6)
    seen = []
    for _ in range(6):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert seen == pytest.approx([3 * schedule(step, 2, 6) for step in range(6)])
