"""Descriptions of regions as a dialogue: names, places and sentences that belong together."""

import io
import json
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import dialogue_forms
from datamodules.dialogues_regions import RegionDialoguesDataModule
from datamodules.samples import Question, Sample, collate
from datamodules.tokenizer import train_tokenizer
from pixel_llm.metrics.distributed import split_rows
from pixel_llm.metrics.region_captions import RegionCaptionMetrics

SIDE = 32
PHRASES = ["a red dog", "the old box [SEG]", "something small: a cup", "a red dog again"]
FORMS = [*dialogue_forms.DESCRIBE_REGION, *dialogue_forms.REGION_DESCRIBED, *dialogue_forms.NO_SUCH_REGION]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "tokenizer.json").write_text(train_tokenizer([*FORMS, *PHRASES], 300).to_json())
    return str(folder)


def module(tokenizer: str, **changes: Any) -> RegionDialoguesDataModule:
    settings: dict[str, Any] = {"train_shards": [], "val_shards": [], "test_shards": [], "tokenizer": tokenizer}
    settings |= {"image_size": SIDE, "num_workers": 0, "visual_prompts": 6, "absent": 0.0}
    return RegionDialoguesDataModule(**(settings | changes))


def record(regions: int = 4) -> dict[str, Any]:
    """Region n is the n-th square of 4 pixels along the upper edge; the fourth is said of the place of the first."""
    contents = [
        {"id": str(n), "bbox": [4 * (n % 3 if n < 4 else n), 0, 4 * (n % 3 if n < 4 else n) + 4, 4], "phrase": phrase}
        for n, phrase in enumerate([*PHRASES, "a cup", "a cup", "a cup"][:regions])
    ]
    file = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE)).save(file, "PNG")
    content = {"dataset_id": "set_val", "image_id": "7", "width": SIDE, "height": SIDE, "regions": contents}
    return {"__key__": "k", "__url__": "a.tar", "jpg": file.getvalue(), "json": json.dumps(content)}


def ask(data: RegionDialoguesDataModule, content: dict[str, Any], training: bool = True, seed: int = 0) -> Sample:
    return data.make_sample(training)(content, np.random.default_rng(seed))


def said(data: RegionDialoguesDataModule, question: Question) -> tuple[str, str]:
    return data.chat.decode(question.context), data.chat.decode(question.tokens)


def test_evaluation_names_places_in_order_and_asks_every_sentence(tokenizer: str) -> None:
    data = module(tokenizer)
    sample = ask(data, record(), training=False)
    assert [said(data, question) for question in sample.questions] == [
        (f"What is <Prompt{n}>?", f"<Prompt{n}>: {phrase}") for n, phrase in zip([0, 1, 2, 0], PHRASES, strict=True)
    ]
    assert [prompt.symbol for prompt in sample.visual_prompts] == [0, 1, 2]
    for n, prompt in enumerate(sample.visual_prompts):
        assert prompt.mask[:4, 4 * n : 4 * n + 4].all()
        assert prompt.mask.sum() == 16
    with pytest.raises(ValueError, match="set_val 7: more than 5 regions: set evaluation_regions"):
        ask(module(tokenizer, visual_prompts=5), record(7), training=False)
    assert len(ask(module(tokenizer, visual_prompts=2, evaluation_regions=2), record(), False).questions) == 2


@pytest.mark.parametrize("training", [True, False])
def test_boxes_that_hardly_differ_are_one_place(tokenizer: str, training: bool) -> None:
    content = record()
    written = json.loads(content["json"])
    x0, y0, x1, y1 = written["regions"][0]["bbox"]
    written["regions"].append({"id": "again", "bbox": [x0, y0, x1, y1 - 0.2 * (y1 - y0)], "phrase": "again"})
    content["json"] = json.dumps(written).encode()
    said_of = {0: {PHRASES[0], PHRASES[3], "again"}, 1: {PHRASES[1]}, 2: {PHRASES[2]}}
    sample = ask(module(tokenizer, regions_per_image=6), content, training)
    assert len(sample.visual_prompts) == 3
    texts = [said(module(tokenizer), question)[1] for question in sample.questions]
    for prompt in sample.visual_prompts:
        place = int(prompt.mask[0].nonzero()[0]) // 4
        phrases = {text.split(": ", 1)[1] for text in texts if text.startswith(f"<Prompt{prompt.symbol}>")}
        assert phrases <= said_of[place]
        assert phrases == said_of[place] or training


@pytest.mark.parametrize("seed", range(8))
def test_training_names_places_at_random(tokenizer: str, seed: int) -> None:
    data = module(tokenizer, flip_probability=0.5, regions_per_image=2)
    sample = ask(data, record(), seed=seed)
    symbols = [prompt.symbol for prompt in sample.visual_prompts]
    assert len(set(symbols)) == 2
    assert set(symbols) <= set(range(6))
    masks = {prompt.symbol: prompt.mask for prompt in sample.visual_prompts}
    assert len(sample.questions) == 2
    for question in sample.questions:
        text, answer = said(data, question)
        [named] = [number for number in symbols if f"<Prompt{number}>" in text]
        name, phrase = answer.split(": ", 1)
        assert name == f"<Prompt{named}>"
        place = PHRASES.index(phrase) % 3
        mask = masks[named].flip(-1) if sample.view.flipped else masks[named]
        assert mask[:4, 4 * place : 4 * place + 4].all()
        assert data.chat.words(question.tokens) == phrase


def test_all_names_places_and_sentences_are_drawn(tokenizer: str) -> None:
    data, names, phrases, first = module(tokenizer), Counter[int](), Counter[str](), Counter[str]()
    for seed in range(120):
        sample = ask(data, record(), seed=seed)
        names.update(prompt.symbol for prompt in sample.visual_prompts)
        phrases.update(data.chat.words(question.tokens) for question in sample.questions)
        first[data.chat.words(sample.questions[0].tokens)] += 1
    assert set(names) == set(range(6))
    assert max(names.values()) < 2 * min(names.values())
    assert set(phrases) == set(PHRASES)
    assert set(first) == set(PHRASES)


def test_more_places_than_names_are_left_out_in_training(tokenizer: str) -> None:
    sample = ask(module(tokenizer, visual_prompts=2, absent=1.0), record(7))
    assert sorted(prompt.symbol for prompt in sample.visual_prompts) == [0, 1]
    assert len(sample.questions) == 2


def test_a_name_that_no_region_has_is_said_to_be_absent(tokenizer: str) -> None:
    data, asked = module(tokenizer, absent=0.3), 0
    for seed in range(100):
        sample = ask(data, record(), seed=seed)
        symbols = {prompt.symbol for prompt in sample.visual_prompts}
        assert len(symbols) == 3
        if len(sample.questions) > 3:
            text, answer = said(data, sample.questions[-1])
            [named] = [number for number in range(6) if f"<Prompt{number}>" in text]
            assert named not in symbols
            assert answer in {form.replace("K>", f"{named}>") for form in dialogue_forms.NO_SUCH_REGION}
            asked += 1
    assert 15 < asked < 45
    assert len(ask(module(tokenizer, absent=1.0), record(), training=False).questions) == 4


def test_a_click_is_one_pixel(tokenizer: str) -> None:
    batch = collate([ask(module(tokenizer, mark="click"), record())], SIDE, 0)
    assert batch.visual_prompts is not None
    assert batch.visual_prompts.masks.sum((1, 2)).tolist() == [1, 1, 1]
    assert batch.masks is None


def test_an_image_without_regions_still_gives_a_batch(tokenizer: str) -> None:
    for training in (True, False):
        batch = collate([ask(module(tokenizer), record(0), training)], SIDE, 0)
        assert batch.visual_prompts is None
        assert batch.targets is not None
        assert batch.targets.tokens.shape == (1, 2)


def test_the_true_sentences_score_fully(tokenizer: str) -> None:
    data = module(tokenizer)
    batch = collate([ask(data, record(), training=False)], SIDE, data.tokenizer.pad_id)
    assert batch.targets is not None
    references = [reference for reference in batch.references if reference is not None]
    words = [data.chat.words(row.tolist()) for row in batch.targets.tokens]
    assert words == [reference.caption for reference in references]
    metrics = RegionCaptionMetrics()
    metrics.update([r.key for r in references], words, [[r.caption] for r in references])
    assert split_rows(metrics.rows) == {"set_val": [(phrase, (phrase,)) for phrase in PHRASES]}
    assert torch.equal(batch.prompts.boxes[1], torch.tensor([4 / SIDE, 0, 8 / SIDE, 4 / SIDE]))
