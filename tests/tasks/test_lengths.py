"""How far texts are padded changes no loss and no gradient."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from datamodules.base import ShardDataModule
from pixel_llm.core.language_model import LanguageModel
from pixel_llm.core.proposal_head import ProposalHead
from pixel_llm.tasks.base import Task
from pixel_llm.tasks.dense_captioning import DenseCaptioning
from pixel_llm.tasks.referring_localization import ReferringLocalization
from pixel_llm.tasks.trace_captioning import TraceCaptioning
from tests.runs import PROPOSAL_HEAD, tiny_optimizer
from tests.tiny import tiny_core, tiny_git, tiny_t5, toy_narratives, toy_referring, toy_regions


def narratives(toy: Path, language_model: LanguageModel, **changes: Any) -> tuple[Task, ShardDataModule]:
    core = tiny_core(language_model)
    return TraceCaptioning(core, tiny_optimizer()), toy_narratives(toy, max_tokens=24, **changes)


def referring(toy: Path, language_model: LanguageModel, **changes: Any) -> tuple[Task, ShardDataModule]:
    core = tiny_core(language_model, mask_adapter="embedding")
    return ReferringLocalization(core, tiny_optimizer(), segment=True), toy_referring(toy, masks=True, **changes)


def regions(toy: Path, language_model: LanguageModel, **changes: Any) -> tuple[Task, ShardDataModule]:
    detector: Any = lambda channels: ProposalHead(channels, **PROPOSAL_HEAD["init_args"])  # noqa: E731
    core = tiny_core(language_model, proposal_head=detector)
    return DenseCaptioning(core, tiny_optimizer()), toy_regions(toy, context_prompt="an object of ", **changes)


def learned(task: Task, data: ShardDataModule) -> tuple[Tensor, dict[str, Tensor], int]:
    """The loss of a batch, its gradients, and the tokens that were read."""
    task.log = lambda *_, **__: None  # type: ignore[method-assign]
    batch = next(iter(data.train_dataloader()))
    torch.manual_seed(0)
    loss = task.loss(batch, "train")
    loss.backward()
    tokens = [None if batch.targets is None else batch.targets.tokens, batch.prompts.context]
    gradients = {name: value.grad for name, value in task.named_parameters() if value.grad is not None}
    return loss, gradients, sum(texts.numel() for texts in tokens if texts is not None)


@pytest.mark.parametrize("made", [narratives, referring, regions])
@pytest.mark.parametrize("language_model", [tiny_t5, tiny_git])
def test_further_padding_changes_nothing(toy: Path, made: Any, language_model: Any) -> None:
    torch.manual_seed(0)
    one = language_model()
    other = copy.deepcopy(one)
    loss, gradients, tokens = learned(*made(toy, one))
    padded_loss, padded_gradients, more = learned(*made(toy, other, length_multiple=7))
    assert more > tokens
    torch.testing.assert_close(padded_loss, loss, atol=0, rtol=1e-5)
    torch.testing.assert_close(padded_gradients, gradients, atol=1e-5, rtol=1e-5)
