"""The arithmetic of plans, by hand."""

import pytest
import torch
from torch import nn

from pixel_llm.planning.budget import (
    GPU,
    Rates,
    Weights,
    arithmetic_of,
    exchanged_bytes,
    memory,
    step_time,
    weights_of,
)

WEIGHTS = Weights(all=1000, trained=100, block=60, around=30)


def test_copies_hold_everything_and_shares_a_part() -> None:
    copy, share = memory(WEIGHTS, 500, 70), memory(WEIGHTS, 500, 70, shares=10)
    assert copy.total == 1000 + 100 + 200 + 500 + 70
    assert share.total == 100 + (30 + 2 * 60) + 10 + 20 + 500 + 70


def test_what_is_sent_between_gpus() -> None:
    assert exchanged_bytes(WEIGHTS, 1, sharded=False, batches=4) == 0
    assert exchanged_bytes(WEIGHTS, 4, sharded=False, batches=4) == 2 * 3 / 4 * 100
    assert exchanged_bytes(WEIGHTS, 4, sharded=True, batches=2) == 3 / 4 * (2 * 2 * 1000 + 2 * 100)


def test_the_slowest_sets_the_pace() -> None:
    gpu = GPU(peak=1000, peak_float32=50, memory=80, within=400, between=50)
    rates = Rates(utilisation=0.5, cores=10, images_per_core=20, image_kb=100, node_read=1)
    time = step_time(1e15, 100, 10e9, gpus=16, peak=gpu.peak, gpu=gpu, rates=rates)
    assert time.arithmetic == pytest.approx(2.0)
    assert time.exchange == pytest.approx(0.2)
    assert time.decoding == pytest.approx(0.5)
    assert time.reading == pytest.approx(0.08)  # 8 GPUs of a node
    assert step_time(0, 0, 10e9, gpus=8, peak=1, gpu=gpu, rates=rates).exchange == pytest.approx(0.025)
    assert (time.seconds, time.bottleneck) == (pytest.approx(2.0), "arithmetic")


def test_weights_are_those_of_the_module() -> None:
    core = nn.Module()
    core.blocks = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 8)])
    core.head = nn.Linear(8, 2, bias=False)
    core.tied = core.head
    core.blocks[0].requires_grad_(False)
    assert weights_of(core) == Weights(all=4 * (20 + 40 + 16), trained=4 * (40 + 16), block=4 * 40, around=4 * 16)
    assert weights_of(core.to(torch.bfloat16)).all == 2 * 76


def test_precisions() -> None:
    assert arithmetic_of("bf16-mixed") == (torch.bfloat16, None)
    assert arithmetic_of("bf16-true") == (None, torch.bfloat16)
    assert arithmetic_of("32-true") == (None, None)
