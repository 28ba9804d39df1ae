"""Region captioning: one answer for each box, whatever else is in the batch, and what trains."""

import json
from pathlib import Path

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from callbacks.evaluation_report import EvaluationReport
from datamodules.tokenizer import Tokenizer
from pixel_llm.core.decoding import DecodingRule
from pixel_llm.structures import Prompts
from pixel_llm.tasks.region_captioning import RegionCaptioning
from pixel_llm.tasks.region_captions import select, write_captions
from tests.runs import tiny_optimizer, tiny_trainer
from tests.tiny import random_inputs, tiny_core, toy_regions


def test_captions_do_not_depend_on_how_many_are_decoded_together(toy: Path) -> None:
    core, tokenizer = tiny_core().eval(), Tokenizer(str(toy / "tokenizer"))
    canvases, sizes, prompts = random_inputs(images=2, prompts_per_image=4)
    features = core.encode_images(canvases, sizes)
    rule = DecodingRule(max_tokens=8)
    whole, scores = write_captions(core, features, prompts, rule, tokenizer, at_once=100)
    parts, part_scores = write_captions(core, features, prompts, rule, tokenizer, at_once=3)
    assert parts == whole
    assert len(set(whole)) > 1
    torch.testing.assert_close(part_scores, scores)
    nothing = select(prompts, torch.tensor([], dtype=torch.long))
    assert write_captions(core, features, nothing, rule, tokenizer, at_once=3)[0] == []


def test_a_click_is_another_prompt_than_a_box() -> None:
    core = tiny_core().eval()
    canvases, sizes, prompts = random_inputs(images=2)
    features = core.encode_images(canvases, sizes)
    points = prompts.boxes.view(-1, 2, 2).mean(1, keepdim=True)
    clicks = Prompts(prompts.image_index, prompts.boxes, None, points, torch.ones(len(points), 1, dtype=torch.long))
    moved = select(clicks, torch.arange(len(points)))
    moved.boxes = torch.zeros_like(moved.boxes)
    torch.testing.assert_close(core.extract(features, clicks), core.extract(features, moved))
    assert not torch.allclose(core.extract(features, clicks), core.extract(features, prompts))


@pytest.mark.parametrize("prompt", ["box", "points"])
def test_a_run_answers_every_region_of_the_test_once(prompt: str, toy: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    task = RegionCaptioning(tiny_core(), tiny_optimizer(), max_tokens=8)
    data = toy_regions(toy, prompt=prompt, clicks=2, regions_per_image=3)
    trainer = tiny_trainer(tmp_path, 2, [EvaluationReport()], logger=CSVLogger(tmp_path / "run", "", ""))
    before = {name: parameter.clone() for name, parameter in task.core.named_parameters()}
    trainer.fit(task, data)
    trained = {n.split(".")[0] for n, p in task.core.named_parameters() if not torch.equal(p, before[n])}
    assert trained == {"tuned_encoder", "prompt_feature_extractor", "language_model"}
    trainer.test(task, data, verbose=False)
    figures = json.loads((tmp_path / "run/test.json").read_text())
    assert {f"toy_unc_test/{name}" for name in ("cider", "bleu4", "rouge_l")} <= set(figures)
    rows = [json.loads(line) for line in (tmp_path / "run/test.jsonl").read_text().splitlines()]
    asked = [r.key for batch in data.test_dataloader() for r in batch.references if r is not None]
    assert sorted(row["key"] for row in rows) == sorted(asked)
    assert len(set(asked)) == len(asked)
    assert all(0 <= row["box"][0] < row["box"][2] <= 160 for row in rows)  # pixels of the original
