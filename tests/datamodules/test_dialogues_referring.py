"""Referring segmentation as a dialogue: what is asked and answered, and what each [SEG] covers in the picture."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from datamodules import dialogue_forms
from datamodules.dialogues_referring import ReferringDialoguesDataModule
from datamodules.mixture import MixtureDataModule
from datamodules.samples import Question, Sample, collate
from datamodules.tokenizer import train_tokenizer
from pixel_llm.metrics.referring import ReferringMetrics
from pixel_llm.structures import ReferringPrediction
from tests.tiny import toy_regions

HEIGHT, WIDTH, CANVAS = 40, 60, 30
TEXTS = ["The left one.", "two boxes", "the typed [SEG] of <Prompt0>"]
FORMS = [*dialogue_forms.SEGMENT, *dialogue_forms.SEGMENTED, *dialogue_forms.NOTHING_TO_SEGMENT]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tokenizer")
    corpus = [*FORMS, *TEXTS, *map(str.lower, TEXTS)]
    (folder / "tokenizer.json").write_text(train_tokenizer(corpus, 400).to_json())
    return str(folder)


def module(tokenizer: str, **changes: Any) -> ReferringDialoguesDataModule:
    settings: dict[str, Any] = {"train_shards": [], "val_shards": [], "test_shards": [], "tokenizer": tokenizer}
    return ReferringDialoguesDataModule(**(settings | {"image_size": CANVAS, "num_workers": 0} | changes))


def record(targets: list[list[int]], masks: bool = True) -> dict[str, Any]:
    """Two white squares on grey, left and right, and an expression for each list of targets."""
    pixels, objects = np.full((HEIGHT, WIDTH), 40, np.uint8), []
    for number, x in enumerate((4, 40)):
        mask = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
        mask[10:26, x : x + 16] = 1
        pixels[mask > 0] = 255
        code = coco_mask.encode(mask)
        rle = {"size": code["size"], "counts": code["counts"].decode()} if masks else None
        objects.append({"id": str(number), "bbox": [x, 10, x + 16, 26], "rle": rle})
    expressions = [
        {"id": str(n), "text": TEXTS[n % len(TEXTS)], "targets": meant, "kind": ""} for n, meant in enumerate(targets)
    ]
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    content = {"dataset_id": "set_val", "width": WIDTH, "height": HEIGHT}
    content |= {"objects": objects, "expressions": expressions}
    return {"__key__": "k", "__url__": "a.tar", "jpg": file.getvalue(), "json": json.dumps(content)}


def ask(data: ReferringDialoguesDataModule, content: dict[str, Any], training: bool = True, seed: int = 0) -> Sample:
    return data.make_sample(training)(content, np.random.default_rng(seed))


def said(data: ReferringDialoguesDataModule, question: Question) -> tuple[str, str]:
    ids = question.context[:-1]
    assert question.context[-1] == question.tokens[-1] == data.tokenizer.eos_id
    return data.chat.decode(ids), data.chat.decode(question.tokens)


def segments(data: ReferringDialoguesDataModule, question: Question) -> int:
    return question.tokens.count(data.chat.special.seg)


def test_evaluation_asks_all_by_the_first_forms(tokenizer: str) -> None:
    data = module(tokenizer)
    sample = ask(data, record([[0], [], [0, 1]]), training=False)
    assert [said(data, question) for question in sample.questions] == [
        ("Segment the left one.", "It is [SEG]."),
        ("Segment two boxes.", "There is no such thing: [SEG]."),
        ("Segment the typed [seg] of <prompt0>.", "It is [SEG]."),
    ]
    assert [segments(data, question) for question in sample.questions] == [1, 1, 1]
    assert len(ask(module(tokenizer, evaluation_expressions=2), record([[0]] * 3), False).questions) == 2


def test_training_draws_among_the_forms(tokenizer: str) -> None:
    data = module(tokenizer)
    drawn = {said(data, ask(data, record([[0]]), seed=seed).questions[0]) for seed in range(150)}
    assert {question for question, _ in drawn} == {f.format(sentence="the left one") for f in dialogue_forms.SEGMENT}
    assert {answer for _, answer in drawn} == {f.format(masks="[SEG]") for f in dialogue_forms.SEGMENTED}
    drawn = {said(data, ask(data, record([[]]), seed=seed).questions[0]) for seed in range(50)}
    assert {answer for _, answer in drawn} == set(dialogue_forms.NOTHING_TO_SEGMENT)


@pytest.mark.parametrize("seed", range(6))
def test_each_mask_token_covers_its_objects_pixels(tokenizer: str, seed: int) -> None:
    data = module(tokenizer, image_size=60, flip_probability=0.5, targets="instances")
    left, both, nothing = record([[0]]), record([[1, 0]]), record([[]])
    view = ask(data, both, seed=seed).view
    painted = view.pixels[0] > 150
    [question] = ask(data, both, seed=seed).questions
    assert segments(data, question) == len(question.answer_masks) == 2
    assert torch.equal(question.answer_masks[0] | question.answer_masks[1], painted)
    right = question.answer_masks[0].nonzero()[:, 1].float().mean() > 30
    assert bool(right) != view.flipped
    [question] = ask(module(tokenizer, image_size=60), both).questions
    assert segments(data, question) == 1
    assert torch.equal(question.answer_masks[0], painted if not view.flipped else painted.flip(-1))
    [question] = ask(data, left, seed=seed).questions
    assert [mask.sum().item() for mask in question.answer_masks] == [256]
    [question] = ask(data, nothing, seed=seed).questions
    assert segments(data, question) == 1
    assert [mask.any().item() for mask in question.answer_masks] == [False]


def test_instances_that_do_not_fit_share_a_mask(tokenizer: str) -> None:
    data = module(tokenizer, image_size=60, targets="instances", max_tokens=3)
    [question] = ask(data, record([[0, 1]])).questions
    assert question.tokens == [data.tokenizer.bos_id, data.chat.special.seg, data.tokenizer.eos_id]
    assert [mask.sum().item() for mask in question.answer_masks] == [512]


def test_training_asks_what_has_a_mask_that_the_view_shows(tokenizer: str) -> None:
    data = module(tokenizer, scale_jitter=(3.0, 3.0))
    seen = set()
    for seed in range(30):
        sample = ask(data, record([[0], [1], [0, 1]]), seed=seed)
        shown = [bool(mask.any()) for question in sample.questions for mask in question.answer_masks]
        assert all(shown)
        seen.add(tuple(sorted(question.reference.key for question in sample.questions)))
    assert ("set_val/0", "set_val/2") in seen
    assert ("set_val/k/",) in seen
    [question] = ask(module(tokenizer), record([[0]], masks=False)).questions
    assert question.reference.key == "set_val/k/"
    batch = collate([ask(module(tokenizer), record([[0]], masks=False))], CANVAS, 0)
    assert (batch.masks, batch.prompts.context is None) == (None, False)


def test_training_draws_so_many_anew_each_time(tokenizer: str) -> None:
    keys = [
        {question.reference.key for question in ask(module(tokenizer), record([[0]] * 9), seed=seed).questions}
        for seed in range(30)
    ]
    assert {len(some) for some in keys} == {5}
    assert set.union(*keys) == {f"set_val/{n}" for n in range(9)}


def test_the_truth_scores_fully(tokenizer: str) -> None:
    data = module(tokenizer)
    batch = collate([ask(data, record([[0], [], [0, 1]]), training=False)], CANVAS, data.tokenizer.pad_id)
    assert batch.masks is None  # the canvas is for training
    metrics, answers = ReferringMetrics(), []
    for reference in batch.references:
        assert reference is not None
        x0, y0, x1, y1 = reference.targets[0] if reference.targets else (0.0, 0.0, 0.0, 0.0)
        box = (x0 * WIDTH, y0 * HEIGHT, x1 * WIDTH, y1 * HEIGHT)
        answers.append(ReferringPrediction(reference.key, "", box, reference.mask))
    metrics.update(batch.references, answers, batch.original_sizes[batch.prompts.image_index].tolist())
    scores = metrics.compute()["set_val"]
    assert scores["ciou"] == scores["giou"] == scores["p50"] == scores["n_acc"] == scores["t_acc"]
    assert scores["expressions"] == 3


def test_it_takes_its_turn_in_a_mixture(toy: Path) -> None:
    shards = {f"{split}_shards": [str(toy / f"toy_unc_{split}")] for split in ("train", "val", "test")}
    data = ReferringDialoguesDataModule(**shards, tokenizer=str(toy / "tokenizer"), image_size=64, num_workers=0)
    mixed = MixtureDataModule([data, toy_regions(toy)], [1, 1], batch_size=2, num_workers=0, samples_per_epoch=12)
    found = {(batch.sources[0], batch.masks is not None) for batch in mixed.train_dataloader()}
    assert found == {("referring_dialogues", True), ("regions", False)}
