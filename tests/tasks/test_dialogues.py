"""Training a single transformer: words, masks and what experts see, from several kinds of data at once."""

import io
import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy
from PIL import Image
from pycocotools import mask as coco_mask
from torch.nn import functional as F

from callbacks.evaluation_report import EvaluationReport
from callbacks.referring_pictures import ReferringPictures
from callbacks.region_pictures import RegionPictures
from datamodules.dialogues_referring import ReferringDialoguesDataModule
from datamodules.dialogues_regions import RegionDialoguesDataModule
from datamodules.mixture import MixtureDataModule
from datamodules.tokenizer import Tokenizer
from datamodules.views import View
from pixel_llm.asked_dialogues import clicks_mark, mask_mark
from pixel_llm.core.decoding import Decoded
from pixel_llm.drawing.captioned_boxes import CaptionedBox
from pixel_llm.drawing.regions import TRUTH
from pixel_llm.pixel_sail.build import pixel_sail
from pixel_llm.pixel_sail.distillation import Distillation, FrozenEncoder
from pixel_llm.pixel_sail.pixel_sail import PixelSail
from pixel_llm.pixel_sail.transformer import Transformer
from pixel_llm.point_losses import PointMaskLoss
from pixel_llm.predictor import Predictor
from pixel_llm.run_lengths import encoded, mask_box
from pixel_llm.special_tokens import SpecialTokens
from pixel_llm.tasks.dialogue_answers import SegmentedAnswers, answer_masks
from pixel_llm.tasks.pixel_sail import Dialogues
from pixel_llm.tasks.readings import apart
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
    callbacks = [EvaluationReport(), ReferringPictures(images=1), RegionPictures(images=1)]
    trainer = tiny_trainer(tmp_path, steps=2, callbacks=callbacks)
    model, data = task(toy), both(toy)
    trainer.fit(model, data)
    trainer.test(model, data, verbose=False)
    figures = json.loads((tmp_path / "test.json").read_text())
    assert {"toy_unc_test/ciou", "toy_unc_test/p50", "toy_unc_test/cider", "empty_masks"} <= set(figures)
    rows = [json.loads(line) for line in (tmp_path / "test_referring_dialogues.jsonl").read_text().splitlines()]
    assert len(rows) == figures["toy_unc_test/expressions"]
    assert figures["empty_masks"] == sum(not coco_mask.area(row["mask"]) for row in rows)
    assert all(coco_mask.area(row["mask"]) == 0 for row in rows if "[SEG]" not in row["answer"])
    batches = [batch for loader in data.test_dataloader() for batch in loader]
    assert figures["regions_lost"] == sum(len(model.read(batch).unseen) for batch in batches)
    described = (tmp_path / "test_region_dialogues.jsonl").read_text().splitlines()
    assert all("caption" in json.loads(line) for line in described)
    for kind, colour in (("referring", TRUTH), ("regions", CaptionedBox(1, (0, 0, 1, 1), "").colour)):
        with Image.open(tmp_path / "pictures" / kind / "test_0.png") as picture:
            assert colour in {found for _, found in picture.getcolors(10**6)}


def test_validation_measures_each_question_beside_its_own_regions_alone(toy: Path, tmp_path: Path) -> None:
    """As they are answered: a loss beside all regions of an image would rise while the answers get better."""
    model, data = task(toy), RegionDialoguesDataModule(**settings(toy))
    torch.nn.init.normal_(model.core.visual_prompts.linear.weight)
    trainer = tiny_trainer(tmp_path, 1, limit_val_batches=1)
    [figures] = trainer.validate(model, data, verbose=False)
    batch = next(iter(data.val_dataloader()))
    model.log_losses = lambda *_: None
    with torch.no_grad():
        beside, alone = (model.loss(asked, "val") for asked in (batch, apart(batch, model.core.special)))
    assert figures["val/words"] == pytest.approx(alone.item(), rel=1e-4)
    assert abs(beside - alone) > 1e-3


def test_a_table_says_how_many_expressions_were_asked(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for asked, note in ((None, "all expressions"), (1, "the first 1 expressions of each image")):
        data = ReferringDialoguesDataModule(**settings(toy), evaluation_expressions=asked)
        [figures] = tiny_trainer(tmp_path, 1, limit_test_batches=1).test(task(toy), data, verbose=False)
        assert note in capsys.readouterr().out
    assert figures["test/toy_unc_test/expressions"] == 4  # one for each image of the batch


class Trained(L.Callback):
    """The state of this process after a training, and each parameter that has moved."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.before = {name: value.detach().clone() for name, value in pl_module.named_parameters()}

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        after = dict(pl_module.named_parameters())
        still = [name for name, value in after.items() if torch.equal(value, self.before[name]) and value.requires_grad]
        file = Path(trainer.default_root_dir, f"{trainer.global_rank}.pt")
        torch.save({"state": pl_module.state_dict(), "still": still}, file)


@pytest.mark.slow
def test_two_processes_train_all_parts_whatever_a_batch_asks(toy: Path, tmp_path: Path) -> None:
    """Masks in one batch, regions in the next; DDP as configured takes what the first one uses for all that is used."""
    strategy = DDPStrategy(start_method="spawn", static_graph=True, gradient_as_bucket_view=True)
    data = MixtureDataModule(both(toy).sources, [1, 1], batch_size=2, num_workers=0, single_source_batches=True)
    fit(distilled(toy), data, tmp_path, 6, [Trained()], devices=2, strategy=strategy)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert all(torch.equal(value, second["state"][name]) for name, value in first["state"].items())
    assert first["still"] == []


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
    many = predictor.describe(photo.read_bytes(), masks=[mask] * 16)  # more than the model has names for
    assert {(answer.caption, answer.box) for answer in many} == {(alone.caption, alone.box)}
    assert [answer.score for answer in many] == pytest.approx([alone.score] * 16, abs=1e-4)
    with pytest.raises(ValueError, match=r"^query a/1 is empty$"):
        predictor.refer(photo.read_bytes(), " ", "a")
    with pytest.raises(ValueError, match="a model of Dialogues does not find objects"):
        predictor.dense_caption(photo.read_bytes())


def test_what_is_not_read_of_a_query_is_logged(tiny_dialogues_run: Path, caplog: pytest.LogCaptureFixture) -> None:
    photo = file_of(Image.new("RGB", (40, 30)), "PNG")
    Predictor(tiny_dialogues_run).refer(photo, ["the ring " * 30, "環"])
    long, unknown = caplog.messages
    assert re.fullmatch(r"query '.*\.\.\.' is \d+ tokens too long: its first words are not read", long)
    assert unknown == "query '環' has no word that the model's tokenizer knows: its answer means nothing"


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.ones((9, 7), bool), "mask 2: 7 x 9 pixels, for a photo of"),
        (np.zeros((120, 160), bool), "mask 2: marks nothing"),
        (np.ones((1, 120, 160), bool), r"mask 2: bool of shape \[1, 120, 160\], not bool of height and width"),
        ([[1, 0], [0, 1]], r"mask 2: int64 of shape \[2, 2\], not bool of height and width"),
    ],
)
def test_an_array_that_marks_no_region_is_refused(tiny_dialogues_run: Path, mask: Any, message: str) -> None:
    photo = file_of(Image.new("RGB", (160, 120)), "PNG")
    with pytest.raises(ValueError, match=f"^{message}"):
        Predictor(tiny_dialogues_run).describe(photo, masks=[np.ones((120, 160), bool), mask])


def file_of(picture: Image.Image, kind: str, **saving: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **saving)
    return file.getvalue()


def turned(picture: Image.Image) -> bytes:
    """A JPEG as a camera held upright writes it: lying, with a note to turn it clockwise."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return file_of(picture.transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif)


PHOTOS = {
    "landscape": ((100, 300), file_of(Image.new("RGB", (300, 100)), "JPEG")),
    "portrait with alpha": ((300, 100), file_of(Image.new("RGBA", (100, 300)), "PNG")),
    "odd and grey": ((201, 37), file_of(Image.new("L", (37, 201)), "PNG")),
    "turned": ((90, 61), turned(Image.new("RGB", (61, 90)))),
    "strip": ((3, 400), file_of(Image.new("RGB", (400, 3)), "PNG")),
    "pixel": ((1, 1), file_of(Image.new("RGB", (1, 1)), "PNG")),
}


@pytest.mark.parametrize("canvas", [64, 61])  # of patches of 8
@pytest.mark.parametrize("name", PHOTOS)
def test_masks_are_in_pixels_of_the_photo(
    name: str, canvas: int, tiny_dialogues_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The left half of the photo, then its upper half, as logits that fall by one a pixel of the canvas."""
    predictor = Predictor(tiny_dialogues_run)
    monkeypatch.setitem(predictor.data, "image_size", canvas)
    core, (height, width), seen = predictor.task.core, PHOTOS[name][0], []

    def say_masks(images: Any, prompts: Any, rule: Any) -> Decoded:
        seen.append(images)
        tokens = torch.tensor([[core.bos_id, core.special.seg, core.eos_id]] * 2)
        return Decoded(tokens, torch.zeros(2, 3, core.backbone.width), torch.zeros(2))

    def halves(features: torch.Tensor, *_: Any) -> torch.Tensor:
        rows, columns = ((torch.arange(side) + 0.5) * 4 for side in features.shape[-2:])
        bottom, right = seen[0].sizes[0].tolist()
        shape = (len(rows), len(columns))
        return torch.stack([(right / 2 - columns).expand(shape), (bottom / 2 - rows)[:, None].expand(shape)])

    monkeypatch.setattr(core, "generate", say_masks)
    monkeypatch.setattr(core, "masks", halves)
    left, upper = predictor.refer(PHOTOS[name][1], ["left", "top"])
    for answer, middles in ((left, np.arange(width) + 0.5), (upper, (np.arange(height) + 0.5)[:, None])):
        assert answer.mask["size"] == [height, width]
        truth = np.broadcast_to(middles * 2 - middles.size, (height, width))
        found = coco_mask.decode(answer.mask).astype(bool)
        if middles.size / max(height, width) * canvas > 4:  # else it is within a cell of the mask
            assert (found == (truth < 0))[truth != 0].all()
    if min(height, width) > 1:
        assert left.box == pytest.approx((0, 0, width / 2, height), abs=1)


@pytest.mark.parametrize("name", PHOTOS)
def test_photos_of_any_kind_are_answered_about(
    name: str, tiny_dialogues_run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (height, width), photo = PHOTOS[name]
    predictor = Predictor(tiny_dialogues_run)
    [answer] = predictor.refer(photo, "the ring")
    assert answer.mask["size"] == [height, width]
    box, whole = (0.0, 0.0, float(width), float(height)), np.ones((height, width), bool)
    described = predictor.describe(photo, [box, box], [(width / 2, height / 2)], name, [whole])
    assert [answer.key for answer in described] == [f"{name}/{n}" for n in (1, 2, 3, 4)]
    assert [answer.box for answer in described[:2] + described[3:]] == [box] * 3
    assert not caplog.records  # such as of regions that are not seen
    assert predictor.describe(photo, [box]) == predictor.describe(photo, masks=[whole])


def test_a_question_is_read_with_the_regions_it_names_alone(toy: Path) -> None:
    batch = next(iter(RegionDialoguesDataModule(**settings(toy)).evaluation_loader("val")))
    special, regions = core(toy).special, batch.visual_prompts
    part = apart(batch, special)
    given = {
        (image, symbol): mask
        for image, symbol, mask in zip(
            regions.image_index.tolist(), regions.symbols.tolist(), regions.masks, strict=True
        )
    }
    assert part.references == batch.references
    assert (part.prompts.image_index.diff() >= 0).all()
    for prompt, (reading, image) in enumerate(
        zip(part.prompts.image_index.tolist(), batch.prompts.image_index.tolist(), strict=True)
    ):
        assert part.keys[reading] == batch.keys[image]
        assert torch.equal(part.images[reading], batch.images[image])
        here = part.visual_prompts.image_index == reading
        (symbol,) = part.visual_prompts.symbols[here].tolist()
        assert special.prompt(symbol) in batch.prompts.context[prompt]
        assert torch.equal(part.visual_prompts.masks[here][0], given[image, symbol])


def test_typed_symbols_are_asked_as_text(tiny_dialogues_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor, asked = Predictor(tiny_dialogues_run), []
    monkeypatch.setattr(predictor.task, "answer", lambda batch, kind: asked.append(batch.prompts.context) or [])
    predictor.refer(PHOTOS["landscape"][1], ["[SEG] <Prompt0> <p> </s>"])
    special = predictor.task.core.special
    assert (asked[0] < special.first).all()
    assert (asked[0] == predictor.tokenizer.eos_id).sum() == 1


def test_answers_without_a_mask_are_empty_masks_and_counted(toy: Path) -> None:
    data, model = ReferringDialoguesDataModule(**settings(toy)), core(toy)
    batch = next(iter(data.test_dataloader()))
    asked = len(batch.references)
    decoded = Decoded(torch.tensor([[0, 7, 8, 1]] * asked), torch.zeros(asked, 4, 32), torch.zeros(asked))
    kind = SegmentedAnswers()
    answers = kind.read(model, model.encode_images(batch.images, batch.sizes), batch, decoded, data.chat)
    assert {int(coco_mask.area(answer.mask)) for answer in answers} == {0}
    kind.update(batch, answers)
    figures, _ = kind.figures(data)
    assert figures["empty_masks"] == asked
    assert figures["toy_unc_test/ciou"] == 0


def test_a_canvas_that_ends_within_a_patch_is_learned_from(toy: Path, tmp_path: Path) -> None:
    changed = settings(toy) | {"image_size": 61}
    sources = [kind(**changed) for kind in (ReferringDialoguesDataModule, RegionDialoguesDataModule)]
    data = MixtureDataModule(sources, [1, 1], batch_size=4, num_workers=0, evaluate_each=True)
    encoder = tiny_sam_encoder()
    teachers = [partial(FrozenEncoder, encoder, name) for name in ("states", "masks")]
    model = task(toy, distillation=lambda *widths: Distillation(*widths, *teachers))
    trainer = tiny_trainer(tmp_path, steps=2, limit_val_batches=1, check_val_every_n_epoch=None, val_check_interval=2)
    trainer.fit(model, data)
    assert all(torch.isfinite(value) for value in trainer.callback_metrics.values())
    assert "train/distillation" in trainer.callback_metrics


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
    teacher = partial(FrozenEncoder, tiny_sam_encoder(), "sam_encoder")
    return task(toy, distillation=partial(Distillation, states_teacher=teacher))


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
