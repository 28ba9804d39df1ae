"""Narratives as questions: every word where its trace was, whole or by sentences, in any view."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.localized_narratives import NarrativeQuestions
from datamodules.samples import Question
from datamodules.tokenizer import Tokenizer, train_tokenizer
from datamodules.views import View
from tests.tiny import toy_narratives

CAPTION = "One ball. A blue box! Grass"
WORDS = CAPTION.split()
WHOLE = View(torch.zeros(3, 8, 8, dtype=torch.uint8), (0.0, 0.0, 1.0, 1.0), False, (8, 8))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([CAPTION, "Look: ", "see "], 60)


def record(captions: list[str]) -> dict[str, Any]:
    """Word number n of narrative number k is spoken from n to n + 1, with the mouse at (n + 1) / 10, (k + 1) / 10."""
    narratives, trace = [], []
    for k, caption in enumerate(captions):
        words, end = [], 0
        for n, word in enumerate(caption.split()):
            begin = caption.index(word, end)
            end = begin + len(word)
            words.append([begin, end, n, n + 0.9])
            trace += [[k, 0, (n + 1) / 10, (k + 1) / 10, n + part] for part in (0.2, 0.5)]
        utterances = [[caption[b:e], start, stop] for b, e, start, stop in words]
        mentions = [[caption.index("box"), caption.index("box") + 3, 0.1, 0.2, 0.3, 0.4]] if "box" in caption else []
        narratives.append({"caption": caption, "words": words, "utterances": utterances, "mentions": mentions})
    file = io.BytesIO()
    np.save(file, np.array(trace, np.float32))
    return {"__key__": "k", "json": json.dumps({"narratives": narratives}).encode(), "trace.npy": file.getvalue()}


def ask(tokenizer: Tokenizer, captions: list[str], view: View = WHOLE, seed: int = 0, **changes: Any) -> list[Question]:
    options = {"max_tokens": 60, "max_context_tokens": 8, "sentences": False, "alignment": "interval"}
    options |= {"prompts": ["Look: ", "see "], "training": False} | changes
    return NarrativeQuestions(tokenizer, **options)(record(captions), view, np.random.default_rng(seed))


def places(tokenizer: Tokenizer, question: Question) -> list[tuple[str, float]]:
    """Each token's text and the tenth of the image across where it is; blanks have no place of their own."""
    found = []
    for token, box in zip(question.tokens[1:-1], question.boxes[1:-1], strict=True):
        text = tokenizer.decode([token])[0].strip()
        if text:
            assert box[0] == pytest.approx(box[2])
            found.append((text, round(float(box[0]) * 10, 3)))
    return found


def test_every_token_is_where_its_word_was_spoken(tokenizer: Tokenizer) -> None:
    [question] = ask(tokenizer, [CAPTION])
    spoken = [""] * len(WORDS)
    for text, place in places(tokenizer, question):
        spoken[int(place) - 1] += text
    assert spoken == WORDS
    reference = question.reference
    assert [reference.caption[a:b] for a, b in reference.words] == WORDS
    assert [box[0] for box in reference.boxes if box] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert len(reference.token_words) == len(question.tokens)
    for token, word in zip(question.tokens[1:-1], reference.token_words[1:-1], strict=True):
        assert tokenizer.decode([token])[0].strip() in WORDS[word]


def test_a_sentence_has_its_own_words_places_and_mentions(tokenizer: Tokenizer) -> None:
    [whole], parts = ask(tokenizer, [CAPTION]), ask(tokenizer, [CAPTION], sentences=True)
    assert [q.reference.caption for q in parts] == ["One ball.", "A blue box!", "Grass"]
    assert [q.reference.key for q in parts] == ["k/0.0", "k/0.1", "k/0.2"]
    assert [place for q in parts for place in places(tokenizer, q)] == places(tokenizer, whole)
    assert [[q.reference.caption[m.begin : m.end] for m in q.reference.mentions] for q in parts] == [[], ["box"], []]
    assert whole.reference.mentions[0].box == (0.1, 0.2, 0.3, 0.4)


def test_a_view_moves_words_and_mentions_alike(tokenizer: Tokenizer) -> None:
    view = View(WHOLE.pixels, (0.0, 0.0, 0.5, 1.0), True, (8, 8))
    [question] = ask(tokenizer, [CAPTION], view)
    boxes = [box[0] for box in question.reference.boxes if box]
    assert boxes == pytest.approx([0.8, 0.6, 0.4, 0.2, 0.0, 0.0])
    assert question.reference.mentions[0].box == pytest.approx((0.4, 0.2, 0.8, 0.4))
    assert [place for _, place in places(tokenizer, question)] == pytest.approx(
        [max(10 - 2 * place, 0) for _, place in places(tokenizer, ask(tokenizer, [CAPTION])[0])]
    )


def test_evaluation_asks_all_and_training_draws_one(tokenizer: Tokenizer) -> None:
    captions = ["One ball.", "A box. Grass"]
    asked = ask(tokenizer, captions)
    assert [q.reference.caption for q in asked] == captions
    assert [q.reference.alternatives for q in asked] == [[captions[1]], [captions[0]]]
    assert {tuple(q.context) for q in asked} == {tuple(tokenizer.context("Look: ", 8))}
    drawn = [ask(tokenizer, captions, seed=seed, training=True, sentences=True) for seed in range(60)]
    assert {len(questions) for questions in drawn} == {1}
    assert {questions[0].reference.caption for questions in drawn} == {"One ball.", "A box.", "Grass"}
    assert {tuple(q[0].context) for q in drawn} == {tuple(tokenizer.context(text, 8)) for text in ("Look: ", "see ")}


def test_narratives_do_not_see_each_others_trace(tokenizer: Tokenizer) -> None:
    for number, question in enumerate(ask(tokenizer, ["One ball.", "A box."]), start=1):
        assert [box[1] for box in question.reference.boxes if box] == pytest.approx([number / 10] * 2)


@pytest.mark.parametrize("length", [1, 2, 5, 6])
def test_a_long_caption_is_cut_with_all_that_belongs_to_it(tokenizer: Tokenizer, length: int) -> None:
    [whole], [cut] = ask(tokenizer, [CAPTION]), ask(tokenizer, [CAPTION], max_tokens=length)
    assert cut.tokens == whole.tokens[:length]
    np.testing.assert_array_equal(cut.boxes, whole.boxes[:length])
    assert cut.reference.token_words == whole.reference.token_words[:length]


def test_the_rank_rule_goes_through_the_utterances_in_order(tokenizer: Tokenizer) -> None:
    [question] = ask(tokenizer, [CAPTION], alignment="rank")
    boxes = question.boxes[1:-1]
    assert not np.isnan(boxes).any()
    assert (np.diff(boxes[:, 0]) >= 0).all()
    assert boxes[-1, 2] >= 0.6


def test_batches_of_the_toy_world_follow_the_raw_records(toy: Path) -> None:
    lines = (toy / "raw/annotations/toy_test_localized_narratives.jsonl").read_text().splitlines()
    raw = {entry["image_id"]: entry for entry in map(json.loads, lines)}
    module = toy_narratives(toy)
    seen = 0
    for batch in module.test_dataloader():
        assert batch.targets is not None
        for row, reference in enumerate(batch.references):
            if reference is None:
                continue
            seen += 1
            entry = raw[reference.key.split("/")[0].removeprefix("toy_test_")]
            assert reference.caption == entry["caption"]
            assert module.tokenizer.decode(batch.targets.tokens[row].tolist())[0] == entry["caption"]
            points = [p for stroke in entry["traces"] for p in stroke]
            for said, box in zip(entry["timed_caption"], reference.boxes, strict=True):
                mine = [p for p in points if said["start_time"] <= p["t"] <= said["end_time"]]
                assert (box is not None) == bool(mine)
                if box:
                    xs, ys = np.clip([p["x"] for p in mine], 0, 1), np.clip([p["y"] for p in mine], 0, 1)
                    assert box == pytest.approx((xs.min(), ys.min(), xs.max(), ys.max()), abs=1e-6)
    assert seen == len(raw)
