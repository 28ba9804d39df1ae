"""Conversations: what is asked and answered, read back from the tokens."""

import io
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datamodules.conversations import ConversationsDataModule
from datamodules.samples import WHOLE_IMAGE, Sample
from datamodules.tokenizer import train_tokenizer

TURNS = [
    {"question": "what colour is the bus?", "answer": "the bus is red"},
    {"question": "why?", "answer": "it was painted"},
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tokenizer")
    words = ["Question: Answer:", *[text for turn in TURNS for text in turn.values()]]
    (folder / "tokenizer.json").write_text(train_tokenizer(words, 200).to_json())
    return str(folder)


def module(tokenizer: str, **changes: Any) -> ConversationsDataModule:
    settings: dict[str, Any] = {"train_shards": [], "val_shards": [], "test_shards": [], "tokenizer": tokenizer}
    return ConversationsDataModule(**(settings | {"image_size": 16, "num_workers": 0} | changes))


def ask(data: ConversationsDataModule, turns: list[dict[str, str]], training: bool, seed: int = 0) -> Sample:
    file = io.BytesIO()
    Image.new("RGB", (12, 8)).save(file, "PNG")
    content = json.dumps({"dataset_id": "mix", "image_id": "a.jpg", "width": 12, "height": 8, "turns": turns})
    record = {"__key__": "mix_a_jpg", "__url__": "a.tar", "jpg": file.getvalue(), "json": content}
    return data.make_sample(training)(record, np.random.default_rng(seed))


def test_a_turn_is_a_caption_of_the_whole_image_with_the_question_as_its_prompt(tokenizer: str) -> None:
    data = module(tokenizer, max_context_tokens=60)
    first, second = ask(data, TURNS, training=False).questions
    assert data.tokenizer.decode(first.context)[0].rstrip() == "Question: what colour is the bus?Answer:"
    assert data.tokenizer.decode(first.tokens)[0] == "the bus is red"
    assert (first.tokens[0], first.tokens[-1]) == (data.tokenizer.bos_id, data.tokenizer.eos_id)
    assert np.isnan(first.boxes).all()
    assert first.prompt_box == WHOLE_IMAGE
    assert (first.reference.key, first.reference.caption) == ("mix_a_jpg/0", "the bus is red")
    assert data.tokenizer.decode(second.context)[0].rstrip() == "Question: why?Answer:"
    assert data.tokenizer.decode(second.tokens)[0] == "it was painted"


def test_training_draws_so_many_turns_anew_and_evaluation_asks_all(tokenizer: str) -> None:
    turns = [TURNS[number % 2] for number in range(20)]
    drawn = [
        [question.reference.key for question in ask(module(tokenizer), turns, True, seed).questions]
        for seed in range(20)
    ]
    assert all(len(set(some)) == len(some) == 16 for some in drawn)
    everything = [f"mix_a_jpg/{number}" for number in range(20)]
    assert {key for some in drawn for key in some} == set(everything)
    asked = ask(module(tokenizer), turns, training=False).questions
    assert [question.reference.key for question in asked] == everything


def test_long_questions_and_answers_are_cut(tokenizer: str) -> None:
    data = module(tokenizer, max_tokens=6, max_context_tokens=5)
    [question] = ask(data, [{"question": "why " * 300, "answer": "red " * 300}], training=True).questions
    assert len(question.tokens) == 6
    assert len(question.context) == 5
