"""Conversations as dialogues: what was said before, and the regions that turns name."""

import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from datamodules.conversations import ConversationsDataModule
from datamodules.dialogues_conversations import ConversationDialoguesDataModule
from datamodules.dialogues_referring import ReferringDialoguesDataModule
from datamodules.mixture import MixtureDataModule
from datamodules.prepare.llava import open_corpus, open_texts
from datamodules.prepare.shards import write_shards
from datamodules.records import read_field
from datamodules.samples import Question, Sample, collate
from datamodules.shard_index import ShardError, open_shards
from datamodules.tokenizer import train_tokenizer

TURNS = [
    {"question": "what colour is the bus?", "answer": "the bus is red"},
    {"question": "why?", "answer": "it was painted"},
    {"question": "who did [SEG] <Prompt0>?", "answer": "a man </s> did"},
]
ABOUT = [
    {"question": "is <region1> beside <region2>?", "answer": "<region1> is below <region2>"},
    {"question": "what is <region2> <Prompt1>?", "answer": "a bus"},
    {"question": "and <region3>?", "answer": "a car"},
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "tokenizer.json").write_text(
        train_tokenizer([text for turn in [*TURNS, *ABOUT] for text in turn.values()], 200).to_json()
    )
    return str(folder)


def module(tokenizer: str, **changes: Any) -> ConversationDialoguesDataModule:
    settings: dict[str, Any] = {"train_shards": [], "val_shards": [], "test_shards": [], "tokenizer": tokenizer}
    return ConversationDialoguesDataModule(**(settings | {"image_size": 12, "num_workers": 0} | changes))


def record(turns: list[dict[str, str]], regions: int = 0, image: bool = True) -> dict[str, Any]:
    """Region n is the n-th column of a picture of 12 x 8 pixels."""
    content: dict[str, Any] = {"dataset_id": "mix", "image_id": "a.jpg", "turns": turns}
    if image:
        content |= {"width": 12, "height": 8}
    for n in range(regions):
        mask = np.zeros((8, 12), np.uint8, order="F")
        mask[:, n] = 1
        code = coco_mask.encode(mask)
        content.setdefault("regions", []).append({"size": code["size"], "counts": code["counts"].decode()})
    file = io.BytesIO()
    Image.new("RGB", (12, 8)).save(file, "PNG")
    made = {"__key__": "mix_a_jpg", "__url__": "a.tar", "json": json.dumps(content)}
    return made | {"jpg": file.getvalue()} if image else made


def ask(data: ConversationDialoguesDataModule, content: dict[str, Any], training: bool, seed: int = 0) -> Sample:
    return data.make_sample(training)(content, np.random.default_rng(seed))


def said(data: ConversationDialoguesDataModule, question: Question) -> tuple[list[str], str]:
    """What the turns of the context say, and the answer."""
    end, spoken = data.tokenizer.eos_id, [[]]
    for token in question.context:
        spoken[-1].append(token) if token != end else spoken.append([])
    assert spoken.pop() == []
    return [data.chat.decode(ids) for ids in spoken], data.chat.decode(question.tokens)


def test_a_question_comes_with_all_that_was_said_before(tokenizer: str) -> None:
    data = module(tokenizer)
    questions = ask(data, record(TURNS), training=False).questions
    everything = [text for turn in TURNS for text in turn.values()]
    for number, question in enumerate(questions):
        before, answer = said(data, question)
        assert before[:4] == everything[: 2 * number + 1][:4]
        assert question.reference.key == f"mix_a_jpg/{number}"
        assert question.reference.caption == TURNS[number]["answer"]
        assert answer == TURNS[number]["answer"] or number == 2
        assert not any(data.chat.is_symbol(token) for token in [*question.context, *question.tokens])
        assert question.tokens.count(data.tokenizer.eos_id) == 1
    assert len(questions) == 3


def test_what_was_said_first_is_forgotten_first(tokenizer: str) -> None:
    whole, short = module(tokenizer), module(tokenizer, max_context_tokens=9, max_tokens=4)
    for full, cut in zip(
        ask(whole, record(TURNS), False).questions, ask(short, record(TURNS), False).questions, strict=True
    ):
        assert cut.context == full.context[-9:]
        assert cut.tokens == [*full.tokens[:3], full.tokens[-1]]


def test_training_draws_turns_with_their_own_past(tokenizer: str) -> None:
    data, seen = module(tokenizer, turns_per_image=2), set()
    truth = {q.reference.key: (q.context, q.tokens) for q in ask(data, record(TURNS), False).questions}
    for seed in range(20):
        questions = ask(data, record(TURNS), True, seed).questions
        assert len({question.reference.key for question in questions}) == 2
        for question in questions:
            assert truth[question.reference.key] == (question.context, question.tokens)
            seen.add(question.reference.key)
    assert len(seen) == 3


def test_turns_name_regions_by_their_symbols(tokenizer: str) -> None:
    data = module(tokenizer, visual_prompts=4)
    sample = ask(data, record(ABOUT, regions=3), training=False)
    first, second, third = (said(data, question) for question in sample.questions)
    assert first == (["is <Prompt0> beside <Prompt1>?"], "<Prompt0> is below <Prompt1>")
    assert second[0][2].startswith("what is <Prompt1> ")
    assert third == ([*second[0], "a bus", "and <Prompt2>?"], "a car")
    prompt = data.chat.special.prompt
    asked = ask(data, record(ABOUT[1:2], regions=3), training=False).questions[0].context
    assert [token for token in asked if data.chat.is_symbol(token)] == [prompt(1)]  # the typed <Prompt1> is text
    assert [p.mask.nonzero()[:, 1].unique().tolist() for p in sample.visual_prompts] == [[0], [1], [2]]


@pytest.mark.parametrize("seed", range(8))
def test_training_names_the_regions_at_random(tokenizer: str, seed: int) -> None:
    data = module(tokenizer, visual_prompts=5)
    sample = ask(data, record(ABOUT, regions=3), True, seed)
    column = {p.symbol: int(p.mask.nonzero()[0, 1]) for p in sample.visual_prompts}
    [first] = [question for question in sample.questions if question.reference.key.endswith("/0")]
    symbols = [token - data.chat.special.prompt(0) for token in first.context if data.chat.is_symbol(token)]
    assert [column[symbol] for symbol in symbols] == [0, 1]


def test_turns_about_regions_without_a_name_are_left_out(tokenizer: str) -> None:
    data = module(tokenizer, visual_prompts=2)
    kept = {
        tuple(sorted(q.reference.key[-1] for q in ask(data, record(ABOUT, regions=3), True, seed).questions))
        for seed in range(30)
    }
    assert kept == {("0", "1"), ("1", "2"), ("2",)}
    with pytest.raises(ValueError, match="3 regions, but only 2 have a name"):
        ask(data, record(ABOUT, regions=3), training=False)


def test_a_record_without_a_picture_is_text_alone(tokenizer: str) -> None:
    data = module(tokenizer)
    batch = collate([ask(data, record(TURNS, image=False), True), ask(data, record(TURNS), True)], 12, 0)
    assert batch.sizes.tolist() == [[0, 0], [8, 12]]
    assert batch.images.shape == (2, 3, 12, 12)
    assert len(batch.prompts.image_index) == 6
    assert batch.visual_prompts is None


def test_texts_and_images_are_mixed_as_often_as_is_said(toy: Path, tmp_path: Path) -> None:
    """Conversations once, expressions four times, as the paper repeats its data."""
    Image.new("RGB", (12, 8)).save(tmp_path / "a.jpg")
    talk = [{"from": "human", "value": "what is it?"}, {"from": "gpt", "value": "a ring"}]
    entries = [{"conversations": talk} for _ in range(9)] + [{"image": "a.jpg", "conversations": talk}]
    (tmp_path / "mix.json").write_text(json.dumps(entries))
    write_shards(open_corpus([tmp_path / "mix.json"]), tmp_path, tmp_path / "images")
    write_shards(open_texts([tmp_path / "mix.json"]), tmp_path, tmp_path / "texts")
    with pytest.raises(ShardError, match="holds conversations, where llava is needed"):
        open_shards(tmp_path / "texts", ConversationsDataModule.kinds)
    shared = {"tokenizer": str(toy / "tokenizer"), "image_size": 32, "val_shards": [], "test_shards": []}
    talks = ConversationDialoguesDataModule(
        train_shards=[str(tmp_path / "images"), str(tmp_path / "texts")], **shared
    )
    expressions = ReferringDialoguesDataModule(train_shards=[str(toy / "toy_unc_train")], **shared)
    mixed = MixtureDataModule(
        [talks, expressions], repeats=[1, 4], single_source_batches=False, batch_size=2, num_workers=0
    )
    seen = Counter[tuple[str, str]]()
    for batch in mixed.train_dataloader():
        seen.update(zip(batch.sources, batch.keys, strict=True))
        assert [min(size) == 0 for size in batch.sizes.tolist()] == [
            source == talks.name and key != "mix_a_jpg" for source, key in zip(batch.sources, batch.keys, strict=True)
        ]
    images = sum(shard.samples for shard in expressions.shards("train"))
    assert Counter(seen.values()) == {1: 10, 4: images}
    assert {source for (source, _), times in seen.items() if times == 4} == {expressions.name}


def test_regions_reach_a_batch_from_annotations_of_ospreys_form(tokenizer: str, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (12, 8)).save(tmp_path / "images/a.jpg")
    turns = [{"from": who, "value": ABOUT[0][part]} for who, part in (("human", "question"), ("gpt", "answer"))]
    squares = [[[x, 0, x + 4, 0, x + 4, 4, x, 4]] for x in (0, 4, 8)]
    entry = {"file_name": "a.jpg", "height": 8, "width": 12, "conversations": turns}
    entries = [entry | {"annotation": [{"segmentation": s} for s in pair]} for pair in (squares[:2], squares[1:])]
    bad = [entries[0] | {"annotation": []}, entries[0] | {"height": 9}]
    (tmp_path / "mix.json").write_text(json.dumps([*entries, *bad]))
    report = write_shards(open_corpus([tmp_path / "mix.json"]), tmp_path / "images", tmp_path / "out")
    assert {reason: found.count for reason, found in report.skipped["records"].items()} == {
        "a region is named that is not annotated": 1,
        "regions for another size of the image than those of an earlier record": 1,
    }
    [content] = [json.loads(data) for data in read_field(open_shards(tmp_path / "out", ["llava"]), "json")]
    assert [turn["question"] for turn in content["turns"]] == [
        "is <region1> beside <region2>?", "is <region3> beside <region4>?",
    ]  # fmt: skip
    data = module(tokenizer, val_shards=[str(tmp_path / "out")], batch_size=1)
    [batch] = data.val_dataloader()
    assert batch.visual_prompts is not None
    left = [int(mask.nonzero()[0, 1]) for mask in batch.visual_prompts.masks]
    assert left == [0, 4, 4, 8]
    assert torch.equal(batch.visual_prompts.masks[1], batch.visual_prompts.masks[2])
