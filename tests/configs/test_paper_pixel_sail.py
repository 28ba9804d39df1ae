"""Pixel-SAIL's configurations against what was published: sizes, schedule, losses, and what is repeated how often."""

import shutil
from pathlib import Path
from typing import Any

import jsonargparse
import pytest
import torch
import yaml

from pixel_llm.pixel_sail.teachers import Mask2FormerTeacher, Sam2Teacher
from pixel_llm.tasks.pixel_sail import Dialogues
from pixel_llm.trainer_cli import PixelLLMCLI
from tests.configs.test_configs import CONFIGS

WORDS_OF_QWEN = 151936  # rows of the released embedding tables
PUBLISHED = {
    # parameters of the released Qwen2.5; width; millions in the map of regions' names and in the MLPs that make masks;
    # images and GPUs of the training
    "0.5b": {"base": 494_032_768, "width": 896, "linear": 0.8, "heads": 2.5, "images": 2_230_656, "gpus": 16},
    "3b": {"base": 3_085_938_688, "width": 2048, "linear": 4.2, "heads": 4.2, "images": 2_308_352, "gpus": 32},
}
GLOBAL_BATCH = {"0.5b": 128, "3b": 256}


@pytest.fixture(autouse=True)
def _parser():
    yield
    jsonargparse.set_parsing_settings(import_path_denylist=[], import_path_allowlist=[])


def built(size: str, toy: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(folder)
    shutil.copytree(toy / "tokenizer", folder / "weights/qwen2.5-0.5b")
    with torch.device("meta"):
        return PixelLLMCLI(run=False, args=["--config", str(CONFIGS / f"pixel_sail/paper_{size}.yaml")])


def millions(*modules: torch.nn.Module) -> float:
    return sum(p.numel() for module in modules for p in module.parameters()) / 1e6


@pytest.mark.parametrize("size", PUBLISHED)
def test_it_has_the_published_sizes_and_schedule(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: str
) -> None:
    cli, wanted = built(size, toy, tmp_path, monkeypatch), PUBLISHED[size]
    task: Dialogues = cli.model
    core, width = task.core, wanted["width"]
    left_out = WORDS_OF_QWEN - core.special.vocabulary_size  # rows beyond the tokenizer's words
    assert sum(p.numel() for p in core.backbone.parameters()) == wanted["base"] - left_out * width
    assert core.mask_head is not None
    assert core.visual_prompts is not None
    assert (core.mask_head.stride, core.mask_head.embedding, core.special.visual_prompts) == (4, 512, 15)
    assert millions(core.mask_head.pixel_mlp, core.mask_head.query_mlp) == pytest.approx(wanted["heads"], abs=0.06)
    assert millions(core.visual_prompts) == pytest.approx(wanted["linear"], abs=0.05)
    assert millions(core.mask_head.state_mlp) == pytest.approx(6.3 if size == "3b" else 0, abs=0.05)
    assert all(p.requires_grad for p in core.parameters())
    batch = cli.datamodule.batch_size * cli.trainer.accumulate_grad_batches * wanted["gpus"]
    assert batch == GLOBAL_BATCH[size]
    assert cli.trainer.max_steps == round(wanted["images"] / batch)
    optimizer = task.optimizer
    assert optimizer.warmup_steps == round(0.05 * cli.trainer.max_steps)
    assert (optimizer.learning_rate, optimizer.weight_decay, optimizer.betas) == (4e-5, 0.05, (0.9, 0.999))
    points = task.mask_loss
    assert (points.points, points.oversampling, points.uncertain) == (12544, 3.0, 0.75)
    assert (points.cross_entropy, points.dice, task.words_beside_masks) == (2.0, 0.5, 0.1)


def test_its_teachers_are_the_published_ones(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task: Dialogues = built("0.5b", toy, tmp_path, monkeypatch).model
    with torch.device("meta"):
        task.make_training_parts()
    lessons = task.distillation
    assert lessons is not None
    assert lessons.states is not None
    assert lessons.masks is not None
    assert isinstance(lessons.states.teacher, Sam2Teacher)
    assert isinstance(lessons.masks.teacher, Mask2FormerTeacher)
    assert (lessons.weight, lessons.states.teacher.channels, lessons.masks.teacher.channels) == (0.5, 256, 256)
    # Hiera-L with its neck, and Swin-L with the pixel decoder: of 224.4 and 216 million in the whole released models
    assert millions(lessons.states.teacher) == pytest.approx(212.7, abs=0.5)
    assert 200 < millions(lessons.masks.teacher) < 216


def test_its_sets_are_repeated_as_published() -> None:
    data = yaml.safe_load((CONFIGS / "data/pixel_sail.yaml").read_text())["init_args"]
    repeats = {
        Path(folder).name: times
        for source, times in zip(data["sources"], data["repeats"], strict=True)
        for folder in source["init_args"]["train_shards"]
    }
    assert repeats == {
        "refcoco_unc_train": 4, "refcocoplus_unc_train": 4, "refcocog_umd_train": 4, "grefcoco_unc_train": 3,
        "pix2cap_referring_train": 2, "pix2cap_train": 10,
        "osprey_detail_description": 10, "osprey_short_form": 1, "osprey_conversation": 1, "osprey_part_level": 1,
        "osprey_lvis_positive_negative": 1, "llava_v1_5_mix665k": 1,
        "llava_v1_5_mix665k_texts": 1,
    }  # fmt: skip
