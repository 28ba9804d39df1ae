"""Dense captioning: what is learned from which box, what trains, and the answers of a run."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from callbacks.evaluation_report import EvaluationReport
from pixel_llm.core.pixel_llm import PixelLLM
from pixel_llm.core.proposal_head import ProposalHead
from pixel_llm.structures import Batch, Prompts, Regions, RoISamples
from pixel_llm.tasks.dense_captioning import DenseCaptioning, first_matches, scored_images
from tests.runs import tiny_optimizer, tiny_trainer
from tests.tiny import tiny_core, toy_regions

HEAD: dict[str, Any] = {
    "width": 16, "scales": (2.0, 1.0), "upsampled_width": 8, "extra_levels": 0, "tower_depth": 1, "norm_groups": 4,
    "level_ranges": ((0.0, 12.0), (8.0, 1000.0)), "pre_nms": (20, 20), "post_nms": (10, 10), "samples": 16,
    "detections": 5, "score_threshold": 0.0,
}  # fmt: skip


def dense_core(**changes: Any) -> PixelLLM:
    return tiny_core(proposal_head=partial(ProposalHead, **(HEAD | changes)))


def task_of(core: PixelLLM, **changes: Any) -> DenseCaptioning:
    task = DenseCaptioning(core, tiny_optimizer(), max_tokens=8, **changes).eval()
    task.log_losses = lambda *_: None  # type: ignore[method-assign]  # there is no trainer
    return task


def test_the_first_matches_of_each_image_are_captioned() -> None:
    index = torch.tensor([0, 0, 0, 0, 1, 1, 3, 3])
    matched = torch.tensor([4, 4, 5, -1, -1, -1, 9, 8])
    samples = RoISamples(index, torch.rand(8, 4), matched)
    assert first_matches(samples, 2).tolist() == [0, 1, 6, 7]
    assert first_matches(samples, 1).tolist() == [0, 6]
    assert first_matches(samples, 9).tolist() == [0, 1, 2, 6, 7]


def test_words_are_learned_on_the_sampled_boxes_with_the_sentence_of_their_match(toy: Path) -> None:
    """Only true boxes are sampled where no proposal matches one: then the words' loss is that of region captioning."""
    data = toy_regions(toy, regions_per_image=1)  # sentences may share a box, of which the first is learned
    batch = next(iter(data.train_dataloader()))
    task = task_of(dense_core(match_iou=0.999, samples=100), label_smoothing=0.0, captioned_per_image=100)
    features = task.encode(batch)
    samples = task.proposal_head.sample(task.proposal_head(features), regions_of(batch))
    with torch.no_grad():
        words = task._caption_loss(features, batch, samples)
        logits = task.core(features, batch.prompts, batch.targets.tokens).logits.log_softmax(-1)
    targets = batch.targets.tokens[:, 1:]
    nll = -logits[:, :-1].gather(-1, targets[..., None])[..., 0][targets != task.core.language_model.pad_id]
    torch.testing.assert_close(words, nll.mean())


def regions_of(batch: Batch) -> Regions:
    return Regions(batch.prompts.image_index, batch.prompts.boxes)


@pytest.mark.parametrize("roi_hidden", [None, (8, 8)])
def test_everything_but_the_frozen_parts_learns_and_no_word_moves_a_box(roi_hidden: Any, toy: Path) -> None:
    data = toy_regions(toy, regions_per_image=3)
    batch = next(iter(data.train_dataloader()))
    task = task_of(dense_core(roi_hidden=roi_hidden))
    task.train()
    task.loss(batch, "train").backward()
    trained = {n.split(".")[0] for n, p in task.core.named_parameters() if p.grad is not None and p.grad.any()}
    assert trained == {"tuned_encoder", "prompt_feature_extractor", "language_model", "proposal_head"}
    assert {n for n, p in task.core.named_parameters() if p.requires_grad and p.grad is None} == set()
    task.zero_grad()
    features = task.encode(batch)
    samples = task.proposal_head.sample(task.proposal_head(features), regions_of(batch))
    task._caption_loss(features, batch, samples).backward()
    assert all(p.grad is None for p in task.proposal_head.parameters())


def test_a_batch_without_any_region_has_a_loss_and_a_gradient_for_every_parameter(toy: Path) -> None:
    batch = next(iter(toy_regions(toy).train_dataloader()))
    images = len(batch.keys)
    batch.prompts = Prompts(torch.arange(images), torch.zeros(images, 4))
    batch.targets.tokens = torch.tensor([[0, 1]]).expand(images, 2)
    task = task_of(dense_core())
    loss = task.loss(batch, "train")
    loss.backward()
    assert loss.isfinite()
    assert {n for n, p in task.core.named_parameters() if p.requires_grad and p.grad is None} == set()


def test_nothing_above_the_threshold_is_an_empty_answer(toy: Path) -> None:
    batch = next(iter(toy_regions(toy).test_dataloader()))
    task = task_of(dense_core(score_threshold=1.1))
    task.tokenizer = toy_regions(toy).tokenizer
    assert task.answer(task.encode(batch), batch) == []
    keys, truths, found = scored_images(batch, [])
    assert len(keys) == len(truths) == len(found) == len({r.image for r in batch.references if r})
    assert all(len(detected.boxes) == 0 and len(truth.boxes) for truth, detected in zip(truths, found, strict=True))


def test_a_run_finds_and_scores(toy: Path, tmp_path: Path) -> None:
    task = DenseCaptioning(dense_core(), tiny_optimizer(), max_tokens=8, multiply_caption_score=True)
    data = toy_regions(toy, regions_per_image=3)
    trainer = tiny_trainer(tmp_path, 2, [EvaluationReport()], logger=CSVLogger(tmp_path / "run", "", ""))
    trainer.fit(task, data)
    trainer.test(task, data, verbose=False)
    figures = json.loads((tmp_path / "run/test.json").read_text())
    assert 0 <= figures["toy_unc_test/detection_map"] <= 1
    rows = [json.loads(line) for line in (tmp_path / "run/test.jsonl").read_text().splitlines()]
    images = {r.image for batch in data.test_dataloader() for r in batch.references if r}
    assert {row["key"] for row in rows} <= images
    assert len(rows) <= 5 * len(images)
    for image in images:
        scores = [row["score"] for row in rows if row["key"] == image]
        assert scores == sorted(scores, reverse=True)
