"""Regions: boxes worked out by hand after crops and flips, sentences read back from their tokens."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from datamodules.regions import RegionsDataModule, spread_clicks
from datamodules.samples import Sample, collate
from datamodules.tokenizer import train_tokenizer
from datamodules.views import View
from tests.tiny import write_regions

HEIGHT, WIDTH, CANVAS = 40, 60, 30
PHRASES = ["the clock is green in colour", "shade is along the street", "a red car"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "tokenizer.json").write_text(train_tokenizer(["an object of", *PHRASES], 100).to_json())
    return str(folder)


def module(tokenizer: str, **changes: Any) -> RegionsDataModule:
    settings: dict[str, Any] = {"train_shards": [], "val_shards": [], "test_shards": [], "tokenizer": tokenizer}
    return RegionsDataModule(**(settings | {"image_size": CANVAS, "num_workers": 0} | changes))


def region(number: int, *box: float, phrase: str | None = None) -> dict[str, Any]:
    said = PHRASES[number % len(PHRASES)] if phrase is None else phrase
    return {"id": str(number), "bbox": list(box), "phrase": said}


def record(*regions: dict[str, Any], **changes: Any) -> dict[str, Any]:
    file = io.BytesIO()
    Image.new("L", (WIDTH, HEIGHT), 90).save(file, "PNG")
    content = {"dataset_id": "vg_test", "image_id": "2", "width": WIDTH, "height": HEIGHT, "regions": list(regions)}
    return {"__key__": "vg_test_2", "__url__": "a.tar", "jpg": file.getvalue(), "json": json.dumps(content | changes)}


def referring_record(boxes: list[tuple[int, int, int, int]], targets: list[list[int]]) -> dict[str, Any]:
    """A sample of kind `referring`: objects whose mask is their box, and an expression for each list of targets."""
    objects = []
    for number, (x0, y0, x1, y1) in enumerate(boxes):
        mask = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
        mask[y0:y1, x0:x1] = 1
        code = coco_mask.encode(mask)
        rle = {"size": code["size"], "counts": code["counts"].decode()}
        objects.append({"id": str(number), "bbox": [x0, y0, x1, y1], "rle": rle})
    expressions = [
        {"id": f"e{n}", "text": PHRASES[n % len(PHRASES)], "targets": meant, "kind": "spatial"}
        for n, meant in enumerate(targets)
    ]
    content = json.loads(record()["json"])
    del content["regions"]
    return record() | {"json": json.dumps(content | {"objects": objects, "expressions": expressions})}


def ask(data: RegionsDataModule, content: dict[str, Any], training: bool = True, seed: int = 0) -> Sample:
    return data.make_sample(training)(content, np.random.default_rng(seed))


def names(sample: Sample) -> list[str]:
    return [question.reference.key for question in sample.questions]


def in_view(data: RegionsDataModule, content: dict[str, Any], window: Any, flipped: bool) -> dict[str, Any]:
    """Of each region that is asked about in training, its prompt box."""
    view = View(torch.zeros(3, 20, 30, dtype=torch.uint8), window, flipped, (HEIGHT, WIDTH))
    questions = data.questions(training=True)(content, view, np.random.default_rng(0))
    return {question.reference.key: question.prompt_box for question in questions}


def test_a_region_is_asked_by_its_box_and_answered_by_its_sentence(tokenizer: str) -> None:
    data = module(tokenizer)
    [question] = ask(data, record(region(1382, 15, 10, 45, 30, phrase="a red car")), training=False).questions
    assert question.prompt_box == (0.25, 0.25, 0.75, 0.75)
    assert (question.tokens[0], question.tokens[-1]) == (data.tokenizer.bos_id, data.tokenizer.eos_id)
    assert data.tokenizer.decode(question.tokens)[0] == "a red car"
    assert np.isnan(question.boxes).all()
    assert question.context == []
    assert question.points == []
    reference = question.reference
    assert (reference.key, reference.image, reference.split) == ("vg_test/1382", "vg_test/2", "vg_test")
    assert (reference.caption, reference.targets) == ("a red car", [(0.25, 0.25, 0.75, 0.75)])


def test_boxes_follow_a_crop_and_a_flip_and_what_is_cut_away_is_not_asked(tokenizer: str) -> None:
    """The view shows x from 30 to 60 and y from 0 to 20 of 60 x 40 pixels."""
    content = record(
        region(0, 36, 5, 48, 10),  # inside
        region(1, 15, 10, 45, 40),  # half of it to the left and two thirds of it below
        region(2, 0, 0, 30, 20),  # touches the view's border alone
        region(3, 30, 20, 60, 40),  # likewise
    )
    window = (0.5, 0.0, 1.0, 0.5)
    assert in_view(module(tokenizer), content, window, flipped=False) == {
        "vg_test/0": pytest.approx((0.2, 0.25, 0.6, 0.5)),
        "vg_test/1": pytest.approx((0.0, 0.5, 0.5, 1.0)),
    }
    assert in_view(module(tokenizer), content, window, flipped=True) == {
        "vg_test/0": pytest.approx((0.4, 0.25, 0.8, 0.5)),
        "vg_test/1": pytest.approx((0.5, 0.5, 1.0, 1.0)),
    }


@pytest.mark.parametrize("seed", range(8))
def test_the_box_lies_on_the_pixels_that_the_augmentation_shows(tokenizer: str, seed: int) -> None:
    pixels = np.full((HEIGHT, WIDTH), 40, np.uint8)
    pixels[8:32, 12:42] = 255
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    data = module(tokenizer, scale_jitter=(0.7, 2.0), flip_probability=0.5)
    sample = ask(data, record(region(0, 12, 8, 42, 32)) | {"jpg": file.getvalue()}, seed=seed)
    painted = sample.view.pixels[0].numpy() > 147
    rows, columns = np.nonzero(painted)
    height, width = painted.shape
    found = (columns.min() / width, rows.min() / height, (columns.max() + 1) / width, (rows.max() + 1) / height)
    assert sample.questions[0].prompt_box == pytest.approx(found, abs=1.01 / min(height, width))


def test_training_draws_so_many_anew_and_evaluation_asks_all_in_order(tokenizer: str) -> None:
    content = record(*[region(n, n, 0, n + 5, 5) for n in range(8)])
    drawn = [names(ask(module(tokenizer, regions_per_image=3), content, seed=seed)) for seed in range(30)]
    assert all(len(set(some)) == 3 for some in drawn)
    everything = [f"vg_test/{n}" for n in range(8)]
    assert {name for some in drawn for name in some} == set(everything)
    assert names(ask(module(tokenizer, regions_per_image=3), content, training=False)) == everything
    assert names(ask(module(tokenizer, evaluation_regions=5), content, training=False)) == everything[:5]


def test_two_thousand_regions_in_one_image(tokenizer: str) -> None:
    content = record(*[region(n, n % 50, n % 30, n % 50 + 5, n % 30 + 5) for n in range(2000)])
    assert len(ask(module(tokenizer), content).questions) == 100
    everything = ask(module(tokenizer), content, training=False)
    assert names(everything) == [f"vg_test/{n}" for n in range(2000)]
    assert collate([everything], CANVAS, 0).prompts.boxes.shape == (2000, 4)


def test_an_image_without_regions_gets_one_empty_question(tokenizer: str) -> None:
    data = module(tokenizer, prompt="points")
    for training in (True, False):
        [question] = ask(data, record(), training).questions
        assert question.prompt_box == (0.0, 0.0, 0.0, 0.0)
        assert question.tokens == [data.tokenizer.bos_id, data.tokenizer.eos_id]
        assert question.points == []
        reference = question.reference
        assert (reference.key, reference.image) == ("vg_test/2/", "vg_test/2")
        assert (reference.caption, reference.targets) == ("", [])


def test_a_sentence_of_300_words_is_cut_but_keeps_its_end(tokenizer: str) -> None:
    data = module(tokenizer, max_tokens=8)
    said = " ".join(["street"] * 300)
    [question] = ask(data, record(region(0, 5, 5, 20, 20, phrase=said))).questions
    whole, _ = data.tokenizer.encode(said)
    assert question.tokens == [data.tokenizer.bos_id, *whole[:6], data.tokenizer.eos_id]
    assert question.reference.caption == said


def test_the_prompts_text_is_the_same_for_every_region(tokenizer: str) -> None:
    data = module(tokenizer, context_prompt="an object of ")
    sample = ask(data, record(region(0, 5, 5, 20, 20), region(1, 5, 5, 30, 20)))
    assert {data.tokenizer.decode(question.context)[0].strip() for question in sample.questions} == {"an object of"}
    assert sample.questions[0].context[-1] == data.tokenizer.eos_id
    [question] = ask(module(tokenizer, context_prompt="an object of ", max_context_tokens=2), record()).questions
    assert len(question.context) == 2


def test_expressions_for_one_object_are_regions(tokenizer: str) -> None:
    content = referring_record([(0, 0, 10, 10), (30, 20, 60, 40)], [[1], [0, 1], [], [0]])
    sample = ask(module(tokenizer), content, training=False)
    assert names(sample) == ["vg_test/e0", "vg_test/e3"]
    assert sample.questions[0].prompt_box == (0.5, 0.5, 1.0, 1.0)
    reference = sample.questions[0].reference
    assert (reference.caption, reference.image, reference.kind) == (PHRASES[0], "vg_test/2", "spatial")


def test_clicks_of_evaluation_begin_in_the_centre_and_stay_in_the_middle_of_the_box(tokenizer: str) -> None:
    content = record(region(0, 12, 8, 48, 32))
    for clicks in (1, 2, 7):
        data = module(tokenizer, prompt="points", clicks=clicks)
        [question] = ask(data, content, training=False).questions
        assert question.points == ask(data, content, training=False, seed=1).questions[0].points
        assert question.points[0] == (0.5, 0.5, 1)
        places = np.array(question.points)[:, :2] * [WIDTH, HEIGHT]
        assert np.all((places >= (21, 14)) & (places <= (39, 26)))
        assert len(set(question.points)) == clicks


def test_clicks_of_evaluation_are_spread() -> None:
    """Of 40 places in the middle of a box, each quarter of it holds about ten."""
    right_and_low = spread_clicks(np.array([0.0, 0.0, 1.0, 1.0]), 40) > 0.5
    counts = np.unique(right_and_low, axis=0, return_counts=True)[1]
    assert len(counts) == 4
    assert counts.min() >= 8


def test_clicks_of_training_are_drawn_anew_from_the_middle_of_the_box(tokenizer: str) -> None:
    data, content = module(tokenizer, prompt="points", clicks=2), record(region(0, 12, 8, 48, 32))
    clicks = np.array([ask(data, content, seed=seed).questions[0].points for seed in range(60)]).reshape(-1, 3)
    places = clicks[:, :2] * [WIDTH, HEIGHT]
    assert np.all((places >= (21, 14)) & (places <= (39, 26)))
    assert np.all(places.min(0) < (23, 15.5))
    assert np.all(places.max(0) > (37, 24.5))
    assert np.all(clicks[:, 2] == 1)


def test_clicks_of_training_are_drawn_from_the_mask(tokenizer: str) -> None:
    """The mask is the box's upper left corner, which its middle part does not reach."""
    content = referring_record([(0, 0, 6, 4)], [[0]])
    written = json.loads(content["json"])
    written["objects"][0]["bbox"] = [0, 0, 60, 40]
    data = module(tokenizer, prompt="points", flip_probability=0.5)
    sides = set()
    for seed in range(20):
        sample = ask(data, content | {"json": json.dumps(written)}, seed=seed)
        [(x, y, _)] = sample.questions[0].points
        assert (1 - x if sample.view.flipped else x) < 0.1
        assert y < 0.1
        sides.add(sample.view.flipped)
    assert sides == {True, False}


def test_clicks_go_into_the_batch_beside_an_image_without_any(tokenizer: str) -> None:
    data = module(tokenizer, prompt="points", clicks=2)
    samples = [ask(data, record(region(0, 12, 8, 48, 32)), training=False), ask(data, record(), training=False)]
    prompts = collate(samples, CANVAS, data.tokenizer.pad_id).prompts
    assert prompts.points is not None
    assert prompts.point_labels is not None
    assert prompts.point_labels.tolist() == [[1, 1], [-1, -1]]


def test_a_prompt_by_points_needs_a_click(tokenizer: str) -> None:
    with pytest.raises(ValueError, match="clicks: 0"):
        module(tokenizer, prompt="points", clicks=0)


def test_shards_with_and_without_regions_become_batches(tokenizer: str, tmp_path: Path) -> None:
    images = {"7": [region(0, 0, 0, 30, 20), region(1, 30, 20, 60, 40)], "8": [], "9": [region(2, 6, 4, 12, 8)]}
    folder = write_regions(tmp_path / "shards", images, dataset_id="tiny_val")
    data = module(tokenizer, val_shards=[str(folder)], batch_size=2, context_prompt="an object of ")
    first, last = list(data.val_dataloader())
    assert first.prompts.image_index.tolist() == [0, 0, 1]
    assert first.prompts.boxes.tolist() == [[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1], [0, 0, 0, 0]]
    keys = [(reference.key, reference.image) for reference in first.references if reference]
    assert keys == [("tiny_val/0", "tiny_val/7"), ("tiny_val/1", "tiny_val/7"), ("tiny_val/8/", "tiny_val/8")]
    assert last.targets is not None
    assert data.tokenizer.decode(last.targets.tokens[0].tolist())[0] == PHRASES[2]
    assert [reference is None for reference in last.references] == [False, True, True]
