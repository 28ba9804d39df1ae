"""Every task under autocast to bfloat16, the precision of all configurations for GPUs: its loss but for rounding."""

from functools import partial
from pathlib import Path

import pytest
import torch

from pixel_llm.core.proposal_head import ProposalHead
from pixel_llm.tasks.base import Task
from pixel_llm.tasks.dense_captioning import DenseCaptioning
from pixel_llm.tasks.region_captioning import RegionCaptioning
from tests.runs import PROPOSAL_HEAD, tiny_optimizer
from tests.tasks.test_sharded_tasks import cases, rows_alike
from tests.tiny import tiny_core, toy_regions


def dense_captioning() -> DenseCaptioning:
    head = partial(ProposalHead, **PROPOSAL_HEAD["init_args"])
    return DenseCaptioning(tiny_core(proposal_head=head), tiny_optimizer())


def test_every_task_has_its_loss_and_a_gradient(toy: Path) -> None:
    regions = {
        "region captioning": (lambda: RegionCaptioning(tiny_core(), tiny_optimizer()), partial(toy_regions, toy)),
        "dense captioning": (dense_captioning, partial(toy_regions, toy)),
    }
    for name, (make_task, make_data) in (cases(toy) | regions).items():
        torch.manual_seed(0)
        task: Task = make_task()
        batch = next(iter(make_data().train_dataloader()))
        task.log = lambda *_, **__: None  # type: ignore[method-assign]
        task.make_training_parts()
        losses = []
        for enabled in (False, True):
            torch.manual_seed(0)  # boxes are drawn
            with rows_alike(0), torch.autocast("cpu", torch.bfloat16, enabled):
                losses.append(task.training_step(batch, 0))
        assert losses[0] != losses[1], name
        assert losses[1].item() == pytest.approx(losses[0].item(), rel=0.05), name
        losses[1].backward()
        gradients = [value.grad for value in task.parameters() if value.grad is not None]
        assert gradients, name
        assert all(gradient.isfinite().all() for gradient in gradients), name
