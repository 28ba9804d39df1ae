"""Referring expressions: what the view shows of them, against objects painted into the picture itself."""

import io
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from datamodules.referring import ReferringDataModule
from datamodules.samples import Question, Sample, collate
from datamodules.tokenizer import train_tokenizer

HEIGHT, WIDTH, CANVAS = 40, 60, 30
BACKGROUND = 40
TEXTS = ["the left one", "a box", "the very last thing of all on the right hand side"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "tokenizer.json").write_text(train_tokenizer(["where is", *TEXTS], 100).to_json())
    return str(folder)


def module(tokenizer: str, **changes: Any) -> ReferringDataModule:
    settings: dict[str, Any] = {"train_shards": [], "val_shards": [], "test_shards": [], "tokenizer": tokenizer}
    return ReferringDataModule(**(settings | {"image_size": CANVAS, "masks": True, "num_workers": 0} | changes))


def record(objects: list[tuple[int, int, int, int]], targets: list[list[int]], **changes: Any) -> dict[str, Any]:
    """A grey picture with a white rectangle (x0 y0 x1 y1) for each object; an expression for each list of targets."""
    pixels, contents = np.full((HEIGHT, WIDTH), BACKGROUND, np.uint8), []
    for number, (x0, y0, x1, y1) in enumerate(objects):
        mask = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
        mask[y0:y1, x0:x1] = 1
        pixels[mask > 0] = 255
        code = coco_mask.encode(mask)
        rle = {"size": code["size"], "counts": code["counts"].decode()}
        contents.append({"id": str(number), "bbox": [x0, y0, x1, y1], "rle": rle} | changes)
    expressions = [
        {"id": str(n), "text": TEXTS[n % len(TEXTS)], "targets": meant, "kind": f"kind{n}"}
        for n, meant in enumerate(targets)
    ]
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    content = {"dataset_id": "set_val", "width": WIDTH, "height": HEIGHT}
    content |= {"objects": contents, "expressions": expressions}
    return {"__key__": "k", "__url__": "a.tar", "jpg": file.getvalue(), "json": json.dumps(content)}


def ask(data: ReferringDataModule, content: dict[str, Any], training: bool = True, seed: int = 0) -> Sample:
    return data.make_sample(training)(content, np.random.default_rng(seed))


def names(sample: Sample) -> list[str]:
    return [question.reference.key for question in sample.questions]


def has_no_box(question: Question) -> bool:
    return bool(np.isnan(question.boxes).all())


@pytest.mark.parametrize("seed", range(12))
def test_box_and_mask_lie_on_the_objects_pixels(tokenizer: str, seed: int) -> None:
    data = module(tokenizer, scale_jitter=(0.7, 2.5), flip_probability=0.5)
    sample = ask(data, record([(12, 8, 42, 32)], [[0]]), seed=seed)
    [question] = sample.questions
    assert question.mask is not None
    painted = sample.view.pixels[0] > (BACKGROUND + 255) / 2
    outline = (painted != question.mask).sum().item()
    assert outline <= 2 * painted.sum().item() ** 0.5  # bilinear and nearest differ along the border alone
    height, width = painted.shape
    rows, columns = np.nonzero(painted.numpy())
    found = (columns.min() / width, rows.min() / height, (columns.max() + 1) / width, (rows.max() + 1) / height)
    assert question.boxes[-1] == pytest.approx(found, abs=1.01 / min(height, width))
    assert question.reference.targets == [pytest.approx(tuple(question.boxes[-1]))]


def test_the_box_stands_at_the_end_of_the_query_alone(tokenizer: str) -> None:
    data = module(tokenizer)
    [question] = ask(data, record([(12, 8, 42, 32)], [[0]])).questions
    text, _ = data.tokenizer.decode(question.tokens)
    assert text == TEXTS[0]
    assert (question.tokens[0], question.tokens[-1]) == (data.tokenizer.bos_id, data.tokenizer.eos_id)
    assert np.isnan(question.boxes[:-1]).all()
    assert question.boxes[-1].tolist() == [12 / WIDTH, 8 / HEIGHT, 42 / WIDTH, 32 / HEIGHT]


def test_training_asks_what_the_view_shows(tokenizer: str) -> None:
    """Small objects in three corners, of which a crop of half the width shows none, one or two."""
    boxes = [(0, 0, 8, 8), (52, 0, 60, 8), (52, 32, 60, 40)]
    data, seen = module(tokenizer, scale_jitter=(2.0, 2.0), flip_probability=0.5), set()
    for seed in range(30):
        sample = ask(data, record(boxes, [[0], [1], [2]]), seed=seed)
        left, top, right, bottom = np.array(sample.view.window) * [WIDTH, HEIGHT, WIDTH, HEIGHT]
        visible = [x0 < right and x1 > left and y0 < bottom and y1 > top for x0, y0, x1, y1 in boxes]
        assert sorted(names(sample)) == ([f"set_val/{n}" for n in range(3) if visible[n]] or ["set_val/k/"])
        seen |= set(names(sample))
    assert seen == {"set_val/k/", "set_val/0", "set_val/1", "set_val/2"}


def test_training_leaves_out_what_names_no_single_object(tokenizer: str) -> None:
    content = record([(5, 5, 20, 20), (30, 5, 50, 20)], [[0, 1], [1], []])
    assert names(ask(module(tokenizer), content)) == ["set_val/1"]


def test_an_image_with_nothing_to_ask_still_gives_a_batch(tokenizer: str) -> None:
    data = module(tokenizer)
    sample = ask(data, record([(5, 5, 20, 20)], [[]]))
    [question] = sample.questions
    assert question.tokens == [data.tokenizer.bos_id, data.tokenizer.eos_id]
    batch = collate([sample], CANVAS, data.tokenizer.pad_id)
    assert batch.targets is not None
    assert not batch.targets.located.any()
    assert batch.masks is None


def test_training_draws_so_many_anew_each_time(tokenizer: str) -> None:
    content = record([(5, 5, 20, 20), (30, 5, 50, 20)], [[n % 2] for n in range(8)])
    drawn = [names(ask(module(tokenizer, expressions_per_image=3), content, seed=seed)) for seed in range(30)]
    assert all(len(set(some)) == 3 for some in drawn)
    assert {name for some in drawn for name in some} == {f"set_val/{n}" for n in range(8)}


def test_evaluation_asks_all_in_order_or_the_first(tokenizer: str) -> None:
    content = record([(5, 5, 20, 20), (30, 5, 50, 20)], [[n % 2] if n % 3 else [] for n in range(20)])
    everything = [f"set_val/{n}" for n in range(20)]
    assert names(ask(module(tokenizer), content, training=False)) == everything
    first = ask(module(tokenizer, evaluation_expressions=16), content, training=False)
    assert names(first) == everything[:16]
    reference = first.questions[1].reference
    assert (reference.split, reference.kind, reference.caption) == ("set_val", "kind1", TEXTS[1])


def test_several_and_no_targets_have_no_box_but_a_truth(tokenizer: str) -> None:
    sample = ask(module(tokenizer), record([(0, 0, 10, 10), (30, 20, 60, 40)], [[0, 1], []]), training=False)
    several, nothing = sample.questions
    assert has_no_box(several)
    assert has_no_box(nothing)
    assert [np.multiply(box, [WIDTH, HEIGHT] * 2).tolist() for box in several.reference.targets] == [
        pytest.approx([0, 0, 10, 10]), pytest.approx([30, 20, 60, 40]),
    ]  # fmt: skip
    assert nothing.reference.targets == []
    together = np.zeros((HEIGHT, WIDTH))
    together[0:10, 0:10] = together[20:40, 30:60] = 1
    for question, truth in ((several, together), (nothing, together * 0)):
        assert question.reference.mask is not None
        np.testing.assert_array_equal(coco_mask.decode(question.reference.mask), truth)
        assert question.mask is None  # the canvas is for training


def test_without_run_lengths_there_is_no_mask(tokenizer: str) -> None:
    content = record([(5, 5, 20, 20)], [[0]], rle=None)
    for training in (True, False):
        [question] = ask(module(tokenizer), content, training).questions
        assert question.mask is None
        assert question.reference.mask is None


def test_masks_are_loaded_where_they_are_asked_for(tokenizer: str) -> None:
    [question] = ask(module(tokenizer, masks=False), record([(5, 5, 20, 20)], [[0]])).questions
    assert question.mask is None
    assert question.reference.mask is not None


def test_a_cut_query_keeps_its_end_and_its_box(tokenizer: str) -> None:
    data = module(tokenizer, max_tokens=6)
    content = json.loads(record([(5, 5, 20, 20)], [[0]])["json"])
    content["expressions"][0]["text"] = "thing " * 2000
    [question] = ask(data, record([(5, 5, 20, 20)], [[0]]) | {"json": json.dumps(content)}).questions
    whole, _ = data.tokenizer.encode("thing " * 2000)
    assert question.tokens == [data.tokenizer.bos_id, *whole[:4], data.tokenizer.eos_id]
    assert not np.isnan(question.boxes[-1]).any()


def test_the_prompt_repeats_the_query_where_a_text_leads_up_to_it(tokenizer: str) -> None:
    content = record([(5, 5, 20, 20)], [[0]])
    assert ask(module(tokenizer), content).questions[0].context == []
    data = module(tokenizer, context_prompt="where is ")
    [question] = ask(data, content).questions
    assert question.context[-1] == data.tokenizer.eos_id
    assert data.tokenizer.decode(question.context)[0] == f"where is {TEXTS[0]}"
    [question] = ask(module(tokenizer, context_prompt="where is ", max_context_tokens=3), content).questions
    assert len(question.context) == 3
