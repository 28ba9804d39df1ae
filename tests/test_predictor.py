"""A trained model on a photo: the same answers as in evaluation, and one line for what cannot work."""

import io
import json
import logging
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from pycocotools import mask as coco_mask

from datamodules.regions import read_regions, spread_clicks
from pixel_llm.predictor import Predictor
from pixel_llm.structures import Regions
from pixel_llm.weights.checkpoint import find_checkpoint, read_checkpoint
from tests.runs import tiny_trainer
from tests.tiny import toy_narratives, toy_referring, toy_regions


@pytest.fixture(scope="module")
def predictor(tiny_run: Path) -> Predictor:
    return Predictor(tiny_run)


@pytest.fixture(scope="module")
def referrer(tiny_referring_run: Path) -> Predictor:
    return Predictor(tiny_referring_run)


def png(height: int, width: int) -> bytes:
    """An image file of random pixels, the same for the same size."""
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def test_a_photo_gets_the_words_of_the_evaluation(toy: Path, tmp_path: Path, predictor: Predictor) -> None:
    data = toy_narratives(toy, max_tokens=24)
    trainer: L.Trainer = tiny_trainer(tmp_path, 1)
    batches = trainer.predict(predictor.task, data, return_predictions=True)
    evaluated = {p.key: p for batch in batches for p in batch}
    source = data.test_dataloader().source
    for position in range(3):
        record = source.record(position)
        expected = next(p for key, p in evaluated.items() if key.split("/")[0] == record["__key__"])
        said = predictor.caption(record["jpg"], "photo")
        assert said.key == "photo"
        assert said.caption == expected.caption
        assert said.score == pytest.approx(expected.score, abs=1e-4)
        boxes = [np.array([word.box for word in p.words]).reshape(-1, 4) for p in (said, expected)]
        np.testing.assert_allclose(*boxes, atol=1e-3)


def test_queries_get_the_answers_of_the_evaluation(toy: Path, tmp_path: Path, referrer: Predictor) -> None:
    data = toy_referring(toy)
    batches = tiny_trainer(tmp_path, 1).predict(referrer.task, data, return_predictions=True)
    evaluated = {p.key: p for batch in batches for p in batch}
    source = data.test_dataloader().source
    for position in range(3):
        record = source.record(position)
        content = json.loads(record["json"])
        queries = [f" {e['text']}\n" for e in content["expressions"]]
        answers = referrer.refer(record["jpg"], queries, "photo")
        assert [a.key for a in answers] == [f"photo/{i}" for i in range(1, len(queries) + 1)]
        for expression, answer in zip(content["expressions"], answers, strict=True):
            expected = evaluated[f"toy_unc_test/{expression['id']}"]
            assert answer.query == expression["text"]
            assert answer.box == pytest.approx(expected.box, abs=1e-3)
            assert answer.score == pytest.approx(expected.score, abs=1e-4)
            assert answer.mask["size"] == [content["height"], content["width"]]
            assert coco_mask.iou([answer.mask], [expected.mask], [0]).item() > 0.99


def test_queries_of_an_image_share_one_encoding(referrer: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, image, queries = [], png(50, 70), ["the ring", "the small blue ring left of the cross", "cross"]
    alone = [referrer.refer(image, query)[0] for query in queries]
    encode = referrer.task.core.encode_images
    monkeypatch.setattr(referrer.task.core, "encode_images", lambda *a: seen.append(len(a[0])) or encode(*a))
    together = referrer.refer(image, queries)
    assert seen == [1]
    for one, other in zip(alone, together, strict=True):
        assert one.query == other.query
        assert one.box == pytest.approx(other.box, abs=1e-3)
    assert referrer.refer(image, []) == []


@pytest.mark.parametrize("size", [(100, 300), (300, 100), (40, 41), (1, 1)])
def test_boxes_and_masks_are_in_pixels_of_the_photo(
    size: tuple[int, int], referrer: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    corners = torch.tensor([[0.75, 1.0], [0.25, 0.5]])  # xy in [0, 1], whatever is asked
    monkeypatch.setattr(referrer.task.core.location_head, "forward", lambda hidden: corners.expand(len(hidden), 2, 2))
    (answer,) = referrer.refer(png(*size), "the ring")
    height, width = size
    assert answer.box == pytest.approx((0.25 * width, 0.5 * height, 0.75 * width, height))
    assert answer.mask["size"] == [height, width]
    assert coco_mask.decode(answer.mask).shape == size
    assert 0 <= answer.score <= 1


def test_bad_queries_and_images_are_one_line(referrer: Predictor) -> None:
    image = png(20, 30)
    for bad in ("", "  \n", ["the ring", "\t"]):
        with pytest.raises(ValueError, match=r"^query photo\.png/\d is empty$"):
            referrer.refer(image, bad, "photo.png")
    for broken in (b"", b"no picture", image[:200]):
        with pytest.raises(ValueError, match=r"^photo\.png: the image cannot be read \(.*\)$"):
            referrer.refer(broken, "the ring", "photo.png")


def test_what_is_not_read_of_a_query_is_said(referrer: Predictor, caplog: pytest.LogCaptureFixture) -> None:
    image = png(20, 30)
    with caplog.at_level(logging.WARNING):
        (plain,) = referrer.refer(image, "the small ring")
        assert not caplog.records
        (long,) = referrer.refer(image, "the small ring " * 700)
        assert "only the first 22 are read" in caplog.text
        assert len(caplog.text) < 400
        caplog.clear()
        (foreign,) = referrer.refer(image, "左の犬")
        assert "no word that the model's tokenizer knows" in caplog.text
    assert long.query.split() == ["the", "small", "ring"] * 700
    assert foreign.query == "左の犬"
    assert all(np.isfinite(answer.box).all() for answer in (plain, long, foreign))


def test_a_query_is_asked_as_the_data_ask_it(toy: Path, referrer: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(referrer.data, "context_prompt", "where is ")
    seen = []
    monkeypatch.setattr(referrer.task, "answer", lambda _, batch: seen.append(batch) or [])
    data = toy_referring(toy, context_prompt="where is ", max_context_tokens=40, batch_size=1)
    asked = next(iter(data.test_dataloader()))
    record = data.test_dataloader().source.record(0)
    referrer.refer(record["jpg"], [r.caption for r in asked.references])
    assert torch.equal(seen[0].prompts.context, asked.prompts.context)
    assert torch.equal(seen[0].targets.tokens, asked.targets.tokens)
    assert torch.equal(seen[0].images, asked.images)


def test_a_run_and_its_checkpoint_are_the_same(tiny_run: Path, predictor: Predictor) -> None:
    by_file = Predictor(tiny_run / "checkpoints/last.ckpt").task.state_dict()
    saved = read_checkpoint(tiny_run / "checkpoints/last.ckpt")["state_dict"]
    for name, value in predictor.task.state_dict().items():
        assert torch.equal(by_file[name], value)
        assert torch.equal(saved[name], value)
    assert not predictor.task.training


def test_a_device_that_is_not_here_is_named(tiny_run: Path) -> None:
    for device in ("nonsense", "cuda:99"):
        with pytest.raises(ValueError, match=rf"^device {device}: "):
            Predictor(tiny_run, device)


def test_a_model_that_cannot_do_what_is_asked_is_named(predictor: Predictor, referrer: Predictor) -> None:
    with pytest.raises(ValueError, match=r"last\.ckpt: a model of TraceCaptioning does not find what queries name"):
        predictor.refer(png(20, 30), "ring")
    with pytest.raises(ValueError, match=r"last\.ckpt: a model of ReferringLocalization does not write captions"):
        referrer.caption(png(20, 30))


def test_a_checkpoint_cannot_name_a_foreign_class(tiny_run: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    content = read_checkpoint(tiny_run / "checkpoints/last.ckpt")
    del content["frozen"]  # all weights are in this one
    config = yaml.safe_load(content["config"])
    config["model"] = {"class_path": "shutil.rmtree", "init_args": {"path": str(victim)}}
    torch.save(content | {"config": yaml.safe_dump(config)}, tmp_path / "a.ckpt")
    with pytest.raises(Exception, match="not allowed"):
        Predictor(tmp_path / "a.ckpt")
    assert victim.is_dir()


def test_the_checkpoint_of_a_folder_is_found_and_of_several_none(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
        (tmp_path / name / "checkpoints/last.ckpt").touch()
    assert find_checkpoint(tmp_path / "one") == tmp_path / "one/checkpoints/last.ckpt"
    with pytest.raises(ValueError, match=r"2 checkpoints, name one of .*one/checkpoints/last\.ckpt, .*two/checkpoints"):
        find_checkpoint(tmp_path)
    with pytest.raises(ValueError, match=r"last\.ckpt: not a checkpoint"):
        read_checkpoint(find_checkpoint(tmp_path / "two"))


@pytest.fixture(scope="module")
def describer(tiny_region_run: Path) -> Predictor:
    return Predictor(tiny_region_run)


@pytest.fixture(scope="module")
def finder(tiny_dense_run: Path) -> Predictor:
    return Predictor(tiny_dense_run)


def test_boxes_get_the_captions_of_the_evaluation(toy: Path, tmp_path: Path, describer: Predictor) -> None:
    data = toy_regions(toy, context_prompt="an object of ")
    batches = tiny_trainer(tmp_path, 1).predict(describer.task, data, return_predictions=True)
    evaluated = {p.key: p for batch in batches for p in batch}
    source = data.test_dataloader().source
    for position in range(3):
        record = source.record(position)
        asked = read_regions(json.loads(record["json"]))
        answers = describer.describe(record["jpg"], [region.box for region in asked], name="photo")
        assert [a.key for a in answers] == [f"photo/{i}" for i in range(1, len(asked) + 1)]
        for region, answer in zip(asked, answers, strict=True):
            expected = evaluated[f"toy_unc_test/{region.region_id}"]
            assert answer.box == tuple(region.box)
            assert answer.caption == expected.caption
            assert answer.score == pytest.approx(expected.score, abs=1e-4)


def test_objects_are_those_of_the_evaluation(toy: Path, tmp_path: Path, finder: Predictor) -> None:
    data = toy_regions(toy, context_prompt="an object of ")
    batches = tiny_trainer(tmp_path, 1).predict(finder.task, data, return_predictions=True)
    evaluated = [p for batch in batches for p in batch]
    source = data.test_dataloader().source
    for position in range(3):
        record = source.record(position)
        image = f"toy_unc_test/{json.loads(record['json'])['image_id']}"
        expected = [p for p in evaluated if p.key == image]
        found = finder.dense_caption(record["jpg"], "photo")
        assert len(found) == len(expected) > 0
        assert {answer.key for answer in found} == {"photo"}
        assert [a.caption for a in found] == [a.caption for a in expected]
        assert [a.score for a in found] == pytest.approx([a.score for a in expected], abs=1e-5)
        np.testing.assert_allclose([a.box for a in found], [a.box for a in expected], atol=1e-2)


@pytest.mark.parametrize("size", [(100, 300), (300, 100), (40, 41)])
def test_found_boxes_are_in_pixels_of_the_photo(size: tuple[int, int], finder: Predictor, monkeypatch) -> None:
    found = Regions(torch.zeros(1, dtype=torch.long), torch.tensor([[0.25, 0.5, 0.75, 1.0]]), torch.tensor([0.5]))
    monkeypatch.setattr(finder.task.core.proposal_head, "detect", lambda outputs: found)
    (answer,) = finder.dense_caption(png(*size))
    height, width = size
    assert answer.box == pytest.approx((0.25 * width, 0.5 * height, 0.75 * width, height))
    assert answer.score == 0.5
    assert answer.caption == finder.describe(png(*size), [answer.box])[0].caption


def test_clicks_get_one_answer_after_those_of_the_boxes(describer: Predictor, finder: Predictor) -> None:
    image, box, clicks = png(50, 70), (10, 5, 60, 45), [(30, 20), (12.5, 40)]
    for predictor in (describer, finder):
        both = predictor.describe(image, [box], clicks)
        assert [answer.box for answer in both] == [box, (12.5, 20, 30, 40)]
        (by_box,), (by_clicks,) = predictor.describe(image, [box]), predictor.describe(image, points=clicks)
        for together, alone in zip(both, (by_box, by_clicks), strict=True):
            assert (together.box, together.caption) == (alone.box, alone.caption)
            assert together.score == pytest.approx(alone.score, abs=1e-5)
        (elsewhere,) = predictor.describe(image, points=[(60, 3)])
        assert elsewhere.score != pytest.approx(by_clicks.score, abs=1e-6)
        assert predictor.describe(image) == []


def test_a_place_is_asked_as_the_data_ask_it(toy: Path, describer: Predictor, monkeypatch) -> None:
    seen = []
    generate = describer.task.core.generate
    monkeypatch.setattr(
        describer.task.core, "generate", lambda f, prompts, rule: seen.append(prompts) or generate(f, prompts, rule)
    )
    for prompt in ("box", "points"):
        data = toy_regions(toy, context_prompt="an object of ", batch_size=1, prompt=prompt, clicks=3)
        asked = next(iter(data.test_dataloader()))
        record = data.test_dataloader().source.record(0)
        region = read_regions(json.loads(record["json"]))[0]
        if prompt == "box":
            describer.describe(record["jpg"], [region.box])
            torch.testing.assert_close(seen[-1].boxes, asked.prompts.boxes[:1])
        else:
            clicks = spread_clicks(np.array(region.box, float), 3).tolist()
            describer.describe(record["jpg"], points=clicks)
            torch.testing.assert_close(seen[-1].points, asked.prompts.points[:1])
            assert torch.equal(seen[-1].point_labels, asked.prompts.point_labels[:1])
        assert torch.equal(seen[-1].context, asked.prompts.context[:1])


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((60, 5, 10, 45), "box 60 5 10 45: in the wrong order"),
        ((10, 45, 60, 5), "box 10 45 60 5: in the wrong order"),
        ((10, 5, 10, 45), "box 10 5 10 45: has no area"),
        ((10, 5, 71, 45), "box 10 5 71 45: reaches beyond the photo of 70 x 50 pixels"),
        ((-1, 5, 20, 45), "box -1 5 20 45: reaches beyond the photo"),
        ((0.1, 0.2, 0.5, 1), "box 0.1 0.2 0.5 1: looks normalised"),
        ((float("nan"), 5, 20, 45), "box nan 5 20 45: not all of it is a number"),
        ((10, 5, 20), "box 10 5 20: 3 numbers"),
    ],
)
def test_a_box_that_cannot_be_meant_is_one_line(describer: Predictor, box: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}") as error:
        describer.describe(png(50, 70), [(0, 0, 70, 50), box])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("click", "message"),
    [
        ((71, 5), "point 71 5: outside the photo of 70 x 50 pixels"),
        ((5, 50.5), "point 5 50.5: outside the photo"),
        ((5, 5, 1), "point 5 5 1: 3 numbers"),
    ],
)
def test_a_click_that_cannot_be_meant_is_one_line(describer: Predictor, click: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        describer.describe(png(50, 70), points=[(3, 4), click])
    with pytest.raises(ValueError, match=r"^point 0.5 0.5 1 0.25: looks normalised to \[0, 1\]"):
        describer.describe(png(50, 70), points=[(0.5, 0.5), (1, 0.25)])


def test_a_photo_of_one_pixel_has_a_box(describer: Predictor) -> None:
    assert len(describer.describe(png(1, 1), [(0, 0, 1, 1)], [(0.5, 0.5)])) == 2


def test_models_that_do_not_caption_regions_or_find_them_are_named(referrer: Predictor, describer: Predictor) -> None:
    with pytest.raises(ValueError, match=r"ReferringLocalization does not caption regions: configs/region_captioning/"):
        referrer.describe(png(20, 30), [(0, 0, 20, 20)])
    with pytest.raises(ValueError, match=r"RegionCaptioning does not find objects: configs/dense_captioning/"):
        describer.dense_caption(png(20, 30))
