"""Images with captions: one drawn in training, the first in evaluation with all as references, or split in two."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from datamodules.image_captions import CaptionQuestions, ImageCaptionDataModule, split_caption
from datamodules.samples import Question
from datamodules.tokenizer import Tokenizer, train_tokenizer
from datamodules.views import View

CAPTIONS = ["A dog on grass.", "The brown dog", "A dog on grass."]
VIEW = View(torch.zeros(3, 4, 4, dtype=torch.uint8), (0.0, 0.0, 1.0, 1.0), False, (4, 4))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([*CAPTIONS, "A photo of ", "See: "], 80)


def ask(tokenizer: Tokenizer, seed: int = 0, **changes: Any) -> Question:
    options = {"prompts": ["A photo of ", "See: "], "max_tokens": 40, "max_context_tokens": 20}
    options |= {"split_prefix": False, "training": True} | changes
    record = {"__key__": "k", "json": json.dumps({"captions": CAPTIONS}).encode()}
    [question] = CaptionQuestions(tokenizer, **options)(record, VIEW, np.random.default_rng(seed))
    return question


def test_evaluation_asks_for_the_first_and_knows_the_others(tokenizer: Tokenizer) -> None:
    question = ask(tokenizer, training=False, split_prefix=True)
    assert tokenizer.decode(question.tokens)[0] == question.reference.caption == CAPTIONS[0]
    assert question.reference.alternatives == ["The brown dog"]
    assert question.context == tokenizer.context("A photo of ", 20)


def test_training_draws_captions_and_prompts(tokenizer: Tokenizer) -> None:
    drawn = [ask(tokenizer, seed) for seed in range(40)]
    assert {q.reference.caption for q in drawn} == set(CAPTIONS)
    assert {tuple(q.context) for q in drawn} == {tuple(tokenizer.context(p, 20)) for p in ("A photo of ", "See: ")}


def test_no_token_is_located(tokenizer: Tokenizer) -> None:
    question = ask(tokenizer)
    assert len(question.boxes) == len(question.tokens)
    assert np.isnan(question.boxes).all()


def test_captions_and_prompts_are_cut(tokenizer: Tokenizer) -> None:
    whole, cut = ask(tokenizer), ask(tokenizer, max_tokens=3, max_context_tokens=2)
    assert (cut.tokens, cut.context) == (whole.tokens[:3], whole.context[:2])
    assert len(cut.boxes) == 3


def test_prefix_and_suffix_are_the_caption(tokenizer: Tokenizer) -> None:
    for seed in range(30):
        question = ask(tokenizer, seed, split_prefix=True)
        prefix = tokenizer.decode(question.context)[0]
        suffix = tokenizer.decode(question.tokens)[0]
        assert " ".join([*prefix.split(), suffix]) in CAPTIONS
        assert suffix == question.reference.caption


@given(st.text(st.sampled_from("aé 1.\nכ😀"), max_size=40), st.integers(0, 100))
def test_a_cut_falls_before_a_word_of_the_first_half(caption: str, seed: int) -> None:
    prefix, suffix = split_caption(caption, np.random.default_rng(seed))
    assert prefix + suffix == caption
    words = caption.split()
    if words:
        assert prefix.split() + suffix.split() == words
        assert len(prefix.split()) < max(len(words) // 2, 1)


def test_the_text_of_narratives_serves_as_captions(toy: Path) -> None:
    lines = (toy / "raw/annotations/toy_test_localized_narratives.jsonl").read_text().splitlines()
    folders = {f"{split}_shards": [str(toy / f"narratives_{split}")] for split in ("train", "val", "test")}
    module = ImageCaptionDataModule(
        **folders, tokenizer=str(toy / "tokenizer"), image_size=32, batch_size=4, num_workers=0
    )
    found = [r.caption for batch in module.test_dataloader() for r in batch.references if r]
    assert found == [json.loads(line)["caption"] for line in lines]
    batch = next(iter(module.train_dataloader()))
    assert batch.targets is not None
    assert not batch.targets.located.any()
    assert batch.targets.tokens.shape[1] <= 40
