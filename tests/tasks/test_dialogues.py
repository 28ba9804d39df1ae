"""Training a single transformer: words, masks and what experts see, from several kinds of data at once."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from torch.nn import functional as F

from callbacks.evaluation_report import EvaluationReport
from datamodules.dialogues_referring import ReferringDialoguesDataModule
from datamodules.dialogues_regions import RegionDialoguesDataModule
from datamodules.mixture import MixtureDataModule
from datamodules.tokenizer import Tokenizer
from datamodules.views import View
from pixel_llm.asked_dialogues import clicks_mark, mask_mark
from pixel_llm.core.decoding import Decoded
from pixel_llm.pixel_sail.build import pixel_sail
from pixel_llm.pixel_sail.distillation import Distillation, FrozenEncoder
from pixel_llm.pixel_sail.pixel_sail import PixelSail
from pixel_llm.pixel_sail.transformer import Transformer
from pixel_llm.point_losses import PointMaskLoss
from pixel_llm.predictor import Predictor
from pixel_llm.run_lengths import encoded, mask_box
from pixel_llm.special_tokens import SpecialTokens
from pixel_llm.tasks.dialogue_answers import answer_masks
from pixel_llm.tasks.pixel_sail import Dialogues
from tests.runs import OneBatch, fit, tiny_optimizer, tiny_trainer
from tests.tiny import tiny_sam_encoder


def core(toy: Path, mask_stride: int | None = 4) -> PixelSail:
    words = Tokenizer(str(toy / "tokenizer")).vocabulary_size
    torch.manual_seed(0)
    sizes = {"width": 32, "layers": 2, "heads": 2, "key_value_heads": 1, "feed_forward": 64, "rope_base": 100.0}
    backbone = Transformer(vocabulary_size=SpecialTokens(words).vocabulary_size, **sizes)
    return pixel_sail(backbone, words, patch=8, mask_stride=mask_stride, mask_embedding=16)


def task(toy: Path, **changes: Any) -> Dialogues:
    settings: dict[str, Any] = {"mask_loss": PointMaskLoss(points=64), "max_tokens": 12}
    return Dialogues(core(toy), tiny_optimizer(5e-3), **settings | changes)


def settings(toy: Path) -> dict[str, Any]:
    folders = {f"{split}_shards": [str(toy / f"toy_unc_{split}")] for split in ("train", "val", "test")}
    return folders | {"tokenizer": str(toy / "tokenizer"), "image_size": 64, "batch_size": 4, "num_workers": 0}


def both(toy: Path) -> MixtureDataModule:
    sources = [ReferringDialoguesDataModule(**settings(toy)), RegionDialoguesDataModule(**settings(toy))]
    return MixtureDataModule(sources, [1, 1], batch_size=4, num_workers=0, evaluate_each=True)


@pytest.mark.slow
def test_words_and_masks_are_learned(toy: Path, tmp_path: Path) -> None:
    """One batch again and again: it is known by heart at the end, and its answers are the right masks."""
    module = ReferringDialoguesDataModule(**settings(toy) | {"batch_size": 2, "expressions_per_image": 2})
    data, model = OneBatch(module, 200), task(toy, words_beside_masks=1.0)
    model.chat = module.chat
    fit(model, data, tmp_path, 200)
    batch = next(iter(data.train_dataloader()))
    model.eval()
    answers = model.predict_step(batch, 0)
    index = batch.prompts.image_index
    for answer, row, mask in zip(answers, index.tolist(), batch.masks, strict=True):
        height, width = batch.sizes[row].tolist()
        real = mask[None, None, :height, :width].float()
        wanted = F.interpolate(real, tuple(batch.original_sizes[row].tolist()), mode="bilinear")[0, 0] > 0.5
        got = torch.from_numpy(coco_mask.decode(answer.mask)).bool()
        assert (got & wanted).sum() / (got | wanted).sum() > 0.5
        assert answer.box == mask_box(answer.mask)


def test_all_kinds_are_evaluated(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = tiny_trainer(tmp_path, steps=2, callbacks=[EvaluationReport()])
    model, data = task(toy), both(toy)
    trainer.fit(model, data)
    trainer.test(model, data, verbose=False)
    figures = json.loads((tmp_path / "test.json").read_text())
    assert {"toy_unc_test/ciou", "toy_unc_test/p50", "toy_unc_test/cider", "empty_masks"} <= set(figures)
    rows = [json.loads(line) for line in (tmp_path / "test_referring_dialogues.jsonl").read_text().splitlines()]
    assert len(rows) == figures["toy_unc_test/expressions"]
    assert figures["empty_masks"] == sum(not coco_mask.area(row["mask"]) for row in rows)
    batches = [batch for loader in data.test_dataloader() for batch in loader]
    assert figures["regions_lost"] == sum(len(model.read(batch).unseen) for batch in batches)
    described = (tmp_path / "test_region_dialogues.jsonl").read_text().splitlines()
    assert all("caption" in json.loads(line) for line in described)


def test_a_table_says_how_many_expressions_were_asked(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for asked, note in ((None, "all expressions"), (1, "the first 1 expressions of each image")):
        data = ReferringDialoguesDataModule(**settings(toy), evaluation_expressions=asked)
        [figures] = tiny_trainer(tmp_path, 1, limit_test_batches=1).test(task(toy), data, verbose=False)
        assert note in capsys.readouterr().out
    assert figures["test/toy_unc_test/expressions"] == 4  # one for each image of the batch


def test_answers_are_masked_together() -> None:
    """The union of an answer's [SEG], and nothing without one, against masks one by one."""
    torch.manual_seed(0)
    sizes = {"width": 16, "layers": 1, "heads": 2, "key_value_heads": 1, "feed_forward": 16}
    backbone = Transformer(vocabulary_size=SpecialTokens(20).vocabulary_size, **sizes)
    model = pixel_sail(backbone, 20, patch=8, mask_stride=4, mask_embedding=8).eval()
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    images = model.encode_images(pixels, torch.tensor([[32, 32], [24, 32]]))
    seg = model.special.seg
    tokens = torch.tensor([[0, seg, 5, seg, 1], [0, 5, 6, 7, 1], [0, 5, 6, seg, 1]])
    decoded = Decoded(tokens, torch.randn(3, 4, 16), torch.zeros(3))
    found = answer_masks(model, images, torch.tensor([0, 0, 1]), decoded) > 0
    features = model.mask_features(images)

    def alone(row: int, column: int, image: int) -> torch.Tensor:
        return model.masks(features, decoded.hidden[row, column][None], torch.tensor([image]))[0] > 0

    assert torch.equal(found[0], alone(0, 1, 0) | alone(0, 3, 0))
    assert not found[1].any()
    assert torch.equal(found[2], alone(2, 3, 1))


def test_regions_that_the_model_does_not_see_are_counted_and_not_said(
    toy: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Where all regions are the whole canvas, all but one of each image are lost."""
    module = RegionDialoguesDataModule(**settings(toy))
    data, model = OneBatch(module, 1), task(toy)
    model.chat = module.chat
    prompts = data.batches[0].visual_prompts
    prompts.masks[:] = True
    lost = len(prompts.symbols) - len(prompts.image_index.unique())
    assert lost > 0
    trainer = tiny_trainer(tmp_path, 1)
    trainer.fit(model, data)
    assert trainer.callback_metrics["train/regions_lost"] == lost
    assert "does not see" not in caplog.text


def test_its_checkpoint_answers_about_a_photo(
    toy: Path, tiny_dialogues_run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As a batch does that the data make, whatever the question comes from."""
    photo = min((toy / "raw/images/test").glob("*.jpg"))
    predictor = Predictor(tiny_dialogues_run)
    height, width = np.asarray(Image.open(photo)).shape[:2]
    found = predictor.refer(photo.read_bytes(), ["the ring", "The ring."], photo.name)
    assert [answer.key for answer in found] == [f"{photo.name}/1", f"{photo.name}/2"]
    assert found[0].mask["size"] == [height, width]
    assert found[0].mask == found[1].mask
    assert found[0].box == mask_box(found[0].mask)
    mask = np.zeros((height, width), bool)
    mask[10:30, 20:50] = True
    described = predictor.describe(photo.read_bytes(), [(20, 10, 50, 30)], [(5, 6)], photo.name, [mask])
    assert [answer.box for answer in described] == [(20, 10, 50, 30), (5, 6, 5, 6), (20, 10, 50, 30)]
    assert caplog.messages == []  # box and mask are one, but each question has its own region alone
    (alone,) = predictor.describe(photo.read_bytes(), [(20, 10, 50, 30)], name=photo.name)
    assert (alone.caption, alone.score) == (described[0].caption, pytest.approx(described[0].score, abs=1e-4))
    with pytest.raises(ValueError, match=r"^16 regions: this model has names for 15 at a time$"):
        predictor.describe(photo.read_bytes(), masks=[mask] * 16)
    with pytest.raises(ValueError, match=r"^query a/1 is empty$"):
        predictor.refer(photo.read_bytes(), " ", "a")
    with pytest.raises(ValueError, match="a model of Dialogues does not find objects"):
        predictor.dense_caption(photo.read_bytes())


def test_marks_of_a_photo_are_those_of_its_view() -> None:
    view = View(torch.zeros(3, 40, 80, dtype=torch.uint8), (0.0, 0.0, 1.0, 1.0), False, (100, 200))
    mask = np.zeros((100, 200), bool)
    mask[50:, :100] = True
    marked = mask_mark(encoded(mask), view)
    assert marked[20:, :40].all()
    assert marked.sum() == 20 * 40
    speck = np.zeros((100, 200), bool)
    speck[3, 3] = True
    assert mask_mark(encoded(speck), view).nonzero().tolist() == [[1, 1]]
    assert clicks_mark([(0.5, 0.25), (1.0, 1.0)], view).nonzero().tolist() == [[10, 40], [39, 79]]


def test_a_model_of_other_words_than_the_datas_is_refused(toy: Path, tmp_path: Path) -> None:
    data = ReferringDialoguesDataModule(**settings(toy) | {"visual_prompts": 3})
    with pytest.raises(ValueError, match=r"^the data have \d+ words and 3 names of regions, the model \d+ and 15: set"):
        fit(task(toy), data, tmp_path, 1)


def test_a_model_without_masks_learns_words_alone(toy: Path, tmp_path: Path) -> None:
    encoder = tiny_sam_encoder()
    teacher = {"distillation": lambda *widths: Distillation(*widths, lambda: FrozenEncoder(encoder, "sam_encoder"))}
    module = RegionDialoguesDataModule(**settings(toy))
    for changes in ({}, teacher):
        model = Dialogues(core(toy, mask_stride=None), tiny_optimizer(5e-3), max_tokens=12, **changes)
        model.chat = module.chat
        losses = fit(model, OneBatch(module, 8), tmp_path, 8)
        assert losses[-1] < losses[0]


def test_masks_for_a_model_without_masks_are_refused(toy: Path, tmp_path: Path) -> None:
    data = ReferringDialoguesDataModule(**settings(toy))
    for use in (lambda trainer, model: trainer.fit(model, data), lambda trainer, model: trainer.test(model, data)):
        with pytest.raises(ValueError, match=r"^masks are asked of a model without a mask head \(mask_stride: null\)$"):
            use(tiny_trainer(tmp_path, 1), Dialogues(core(toy, mask_stride=None), tiny_optimizer()))


def distilled(toy: Path) -> Dialogues:
    torch.manual_seed(1)
    encoder = tiny_sam_encoder()
    return task(toy, distillation=lambda *widths: Distillation(*widths, lambda: FrozenEncoder(encoder, "sam_encoder")))


def test_a_distilled_model_is_used_without_its_teacher(toy: Path, tmp_path: Path) -> None:
    data = ReferringDialoguesDataModule(**settings(toy))
    trainer = tiny_trainer(tmp_path, steps=2)
    model = distilled(toy)
    trainer.fit(model, data)
    assert trainer.callback_metrics["train/distillation"] > 0
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    names = torch.load(tmp_path / "a.ckpt", weights_only=True)["state_dict"]
    assert {name.partition(".")[2] for name in names if name.startswith("distillation")} == {
        "states.adapter.weight", "states.adapter.bias"
    }  # fmt: skip
    again = distilled(toy)
    tiny_trainer(tmp_path, steps=2).test(again, data, ckpt_path=tmp_path / "a.ckpt", verbose=False, weights_only=True)
    assert again.distillation is None
    assert torch.equal(again.core.patch_embedding.linear.weight, model.core.patch_embedding.linear.weight)
