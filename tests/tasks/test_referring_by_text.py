"""Boxes that a model writes: what is learned, what is read, and what cannot be."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.location_text import BinTokens
from datamodules.referring import ReferringDataModule
from pixel_llm.structures import Generation
from pixel_llm.tasks.referring_by_text import ReferringByText
from tests.runs import tiny_optimizer, tiny_trainer
from tests.tiny import tiny_core, toy_referring


def written(toy: Path, bins: int = 32, **changes: Any) -> ReferringDataModule:
    return toy_referring(toy, location_text=BinTokens(bins), context_prompt="", **changes)


def tiny_task() -> ReferringByText:
    return ReferringByText(tiny_core(), tiny_optimizer(), max_tokens=8)


class Writer:
    """Writes the true locations of the test split, all but every third, for which it writes a word too many."""

    def __init__(self, data: ReferringDataModule) -> None:
        self.tokens = [batch.targets.tokens for batch in data.test_dataloader() if batch.targets is not None]
        self.asked = self.spoiled = 0

    def __call__(self, *_: Any) -> Generation:
        tokens = F.pad(self.tokens.pop(0), (0, 1))
        for row in tokens:
            self.asked += 1
            if self.asked % 3 == 0:
                self.spoiled += 1
                row[1:] = torch.cat([torch.tensor([5]), row[1:-1]])
        return Generation(tokens, torch.zeros(*tokens.shape, 2, 2), torch.zeros(len(tokens)))


def test_what_can_be_read_is_scored_and_the_rest_misses(toy: Path, tmp_path: Path, monkeypatch) -> None:
    data, task = written(toy, batch_size=3), tiny_task()
    writer = Writer(data)
    monkeypatch.setattr(task.core, "generate", writer)
    figures = tiny_trainer(tmp_path, 1).test(task, data, verbose=False)[0]
    share = writer.spoiled / writer.asked
    assert 0 < share < 1
    assert figures["test/unreadable"] == pytest.approx(share)
    assert figures["test/toy_unc_test/p50"] == pytest.approx(1 - share)
    assert figures["test/toy_unc_test/expressions"] == writer.asked


def test_the_model_itself_can_be_tested_and_asked(toy: Path, tmp_path: Path) -> None:
    data, task = written(toy), tiny_task()
    trainer = tiny_trainer(tmp_path, 1)
    assert trainer.test(task, data, verbose=False)[0]["test/unreadable"] > 0.5  # random weights
    answers = [answer for batch in trainer.predict(task, data) for answer in batch]
    assert all(len(answer.box) == 4 and answer.mask is None for answer in answers)


def test_the_loss_is_the_cross_entropy_of_locations_alone(toy: Path) -> None:
    """An expression that names nothing has no location to learn, neither its </s>."""
    task, batch = tiny_task(), next(iter(written(toy).train_dataloader()))
    assert batch.targets is not None
    tokens: Tensor = batch.targets.tokens
    tokens[1] = torch.tensor([0, 1, 0, 0, 0, 0])
    rows = [row for row in range(len(tokens)) if row != 1]
    logits = task.core(task.encode(batch), batch.prompts, tokens).logits[rows, :-1]
    truth = F.cross_entropy(logits.flatten(0, 1), tokens[rows, 1:].flatten())
    torch.testing.assert_close(task.loss(batch, "train"), truth)


def test_locations_are_learned_by_what_can_learn_them(toy: Path) -> None:
    task, batch = tiny_task(), next(iter(written(toy, batch_size=2, expressions_per_image=2).train_dataloader()))
    optimizer = torch.optim.AdamW([p for p in task.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(25):
        loss = task.loss(batch, "train")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
    assert all(p.grad is None for p in task.core.location_head.parameters())


def test_data_and_model_that_do_not_fit_are_one_line(toy: Path, tmp_path: Path) -> None:
    for data, message in (
        (written(toy, bins=250), "the language model has only 256: set its vocabulary_size"),
        (toy_referring(toy), "this task needs a data module with location_text"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            tiny_trainer(tmp_path, 1).test(tiny_task(), data, verbose=False)
        assert "\n" not in str(error.value)
