"""The callbacks, each in a short training or test of the toy world."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from callbacks.dense_pictures import DensePictures, true_numbers
from callbacks.evaluation_report import EvaluationReport
from callbacks.last_checkpoint import LastCheckpoint
from callbacks.referring_pictures import ReferringPictures
from callbacks.region_pictures import RegionPictures
from callbacks.step_seed import StepSeed
from callbacks.trace_pictures import TracePictures, true_words
from pixel_llm.core.proposal_head import ProposalHead
from pixel_llm.drawing.captioned_boxes import CaptionedBox
from pixel_llm.drawing.regions import FOUND, TRUTH
from pixel_llm.structures import Reference, RegionPrediction, Word
from pixel_llm.tasks.dense_captioning import DenseCaptioning
from pixel_llm.tasks.referring_localization import ReferringLocalization
from pixel_llm.tasks.region_captioning import RegionCaptioning
from pixel_llm.tasks.trace_captioning import TraceCaptioning
from tests.runs import PROPOSAL_HEAD, fit, tiny_optimizer, tiny_task, tiny_trainer
from tests.tiny import tiny_core, toy_narratives, toy_referring, toy_regions


class Draws(L.Callback):
    """What torch draws at the beginning of each step, after `noise` further draws in every step before."""

    def __init__(self, noise: int) -> None:
        self.noise, self.values = noise, []

    def on_train_batch_start(self, *_: Any) -> None:
        self.values.append(torch.rand(1).item())
        torch.rand(self.noise)


def test_each_step_draws_the_same_whatever_was_drawn_before(toy: Path, tmp_path: Path) -> None:
    seen = []
    for noise, seed in ((0, 5), (17, 5), (0, 6)):
        draws = Draws(noise)
        trainer = L.Trainer(
            accelerator="cpu", max_steps=3, logger=False, enable_checkpointing=False, limit_val_batches=0,
            enable_progress_bar=False, enable_model_summary=False, callbacks=[StepSeed(), draws],
        )  # fmt: skip
        L.seed_everything(seed)
        trainer.fit(tiny_task(), toy_narratives(toy))
        seen.append(draws.values)
    assert seen[0] == seen[1]
    assert len({*seen[0], *seen[2]}) == 6


def test_pictures_are_drawn_when_they_are_due(toy: Path, tmp_path: Path) -> None:
    pictures = TracePictures(images=2, every_n_steps=4)
    settings = {"limit_val_batches": 1, "val_check_interval": 2, "check_val_every_n_epoch": None}
    fit(tiny_task(), toy_narratives(toy), tmp_path, 6, [pictures], **settings)
    files = sorted((tmp_path / "pictures").iterdir())
    assert [f.name for f in files] == [f"step_{s:06d}_{i}.png" for s in (2, 6) for i in (0, 1)]
    for file in files:
        with Image.open(file) as picture:
            picture.load()
            assert len(picture.getcolors(10**6)) > 20


@pytest.mark.parametrize("segment", [False, True])
def test_queries_are_drawn_when_they_are_due(toy: Path, tmp_path: Path, segment: bool) -> None:
    pictures = ReferringPictures(images=2, every_n_steps=4)
    settings = {"limit_val_batches": 1, "val_check_interval": 2, "check_val_every_n_epoch": None}
    logger = TensorBoardLogger(tmp_path, name="", version="")
    task = ReferringLocalization(tiny_core(mask_adapter="embedding"), tiny_optimizer(), segment=segment)
    fit(task, toy_referring(toy, masks=segment), tmp_path, 6, [pictures], logger=logger, **settings)
    files = sorted((tmp_path / "pictures").iterdir())
    assert [f.name for f in files] == [f"step_{s:06d}_{i}.png" for s in (2, 6) for i in (0, 1)]
    for file in files:
        with Image.open(file) as picture:
            colours = {colour for _, colour in picture.getcolors(10**6)}
            assert {FOUND, TRUTH} <= colours
    events = EventAccumulator(str(tmp_path)).Reload()
    assert events.Tags()["images"] == ["referring/0", "referring/1"]


def test_an_image_without_expressions_and_a_repeated_one_are_not_drawn(toy: Path) -> None:
    data = toy_referring(toy)
    batch = next(iter(data.val_dataloader()))
    index, answers = batch.prompts.image_index.tolist(), [None] * len(batch.references)
    batch.references = [None if i == 0 else Reference("k", "", split="s") for i in index]
    for image in (0, 1):
        prompts = [p for p, i in enumerate(index) if i == image]
        assert ReferringPictures().draw(batch, image, prompts, answers) is None


@pytest.mark.parametrize("dense", [False, True])
def test_regions_are_drawn_when_they_are_due(toy: Path, tmp_path: Path, dense: bool) -> None:
    callback, settings = DensePictures if dense else RegionPictures, {"val_check_interval": 2}
    head = partial(ProposalHead, **PROPOSAL_HEAD["init_args"]) if dense else None
    task = (DenseCaptioning if dense else RegionCaptioning)(tiny_core(proposal_head=head), tiny_optimizer())
    logger = TensorBoardLogger(tmp_path, name="", version="")
    settings |= {"limit_val_batches": 1, "check_val_every_n_epoch": None, "logger": logger}
    fit(task, toy_regions(toy), tmp_path, 2, [callback(images=2)], **settings)
    files = sorted((tmp_path / "pictures").iterdir())
    assert [f.name for f in files] == [f"step_000002_{i}.png" for i in (0, 1)]
    for file in files:
        with Image.open(file) as picture:
            colours = {colour for _, colour in picture.getcolors(10**6)}
            assert CaptionedBox(1, (0, 0, 1, 1), "").colour in colours
            assert picture.width > 2 * 640 * 0.7 if dense else True  # prediction beside truth
    events = EventAccumulator(str(tmp_path)).Reload()
    tag = "dense" if dense else "regions"
    assert events.Tags()["images"] == [f"{tag}/0", f"{tag}/1"]


def test_an_image_without_regions_is_drawn_dense_and_a_repeated_one_never(toy: Path) -> None:
    batch = next(iter(toy_regions(toy).val_dataloader()))
    index = batch.prompts.image_index.tolist()
    batch.references = [None if i == 0 else Reference("k", "", image="s/1") for i in index]
    rows = [[p for p, i in enumerate(index) if i == image] for image in (0, 1)]
    found = [RegionPrediction("s/1", (1.0, 2.0, 30.0, 40.0), "a ring", 0.5)]
    answers = found * len(index)
    assert DensePictures().draw(batch, 0, rows[0], answers) is None
    assert RegionPictures().draw(batch, 0, rows[0], answers) is None
    assert RegionPictures().draw(batch, 1, rows[1], answers) is None
    for predicted in (found, []):
        assert DensePictures().draw(batch, 1, rows[1], predicted) is not None


def test_true_objects_are_numbered_as_the_found_ones_that_they_overlap() -> None:
    found = [(0, 0, 10, 10), (20, 0, 30, 10), (40, 0, 50, 10)]
    true = [(80, 0, 90, 10), (41, 0, 50, 10), (0, 0, 10, 6), (0, 0, 10, 9)]
    assert true_numbers(found, true) == [4, 3, 5, 1]
    assert true_numbers([], true) == [1, 2, 3, 4]
    assert true_numbers(found, []) == []


def test_true_words_are_in_pixels() -> None:
    reference = Reference("k", "red sky", words=[(0, 3), (4, 7)], boxes=[(0.0, 0.5, 1.0, 1.0), None])
    assert true_words(reference, (20, 40)) == [Word("red", (0.0, 10.0, 40.0, 20.0)), "sky"]


def test_the_report_holds_figures_and_predictions(toy: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", "")  # no Java: faster
    trainer = tiny_trainer(tmp_path, 1, [EvaluationReport()], logger=CSVLogger(tmp_path, name="", version=""))
    task, data = tiny_task(), toy_narratives(toy)
    (logged,) = trainer.test(task, data, verbose=False)
    figures = json.loads((tmp_path / "test.json").read_text())
    assert figures == {name.removeprefix("test/"): pytest.approx(value) for name, value in logged.items()}
    assert {"lbm_k0", "cider"} <= figures.keys()
    rows = [json.loads(line) for line in (tmp_path / "test.jsonl").read_text().splitlines()]
    assert len({row["key"] for row in rows}) == len(rows) == 6
    task.eval()
    batch = next(iter(data.test_dataloader()))
    for prediction in task.predict_step(batch, 0):
        (row,) = [row for row in rows if row["key"] == prediction.key]
        assert row["caption"] == prediction.caption
        assert [w["box"] for w in row["words"]] == [pytest.approx(w.box, abs=1e-3) for w in prediction.words]
    widest = max(word["box"][2] for row in rows for word in row["words"])
    assert widest > 1  # pixels, not shares


def test_the_last_state_is_saved_whatever_the_interval(toy: Path, tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, 3, [LastCheckpoint(every_n_train_steps=2)], enable_checkpointing=True)
    task = TraceCaptioning(tiny_core(), tiny_optimizer())
    trainer.fit(task, toy_narratives(toy))
    (file,) = tmp_path.rglob("last.ckpt")
    assert torch.load(file, weights_only=True)["global_step"] == 3


def test_so_many_earlier_states_are_kept(toy: Path, tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, 5, [LastCheckpoint(every_n_train_steps=1, keep=2)], enable_checkpointing=True)
    trainer.fit(TraceCaptioning(tiny_core(), tiny_optimizer()), toy_narratives(toy))
    (last,) = tmp_path.rglob("last.ckpt")
    steps = {file.name: torch.load(file, weights_only=True)["global_step"] for file in last.parent.glob("*.ckpt")}
    assert steps == {"last.ckpt": 5, "step_000000004.ckpt": 4, "step_000000003.ckpt": 3}


def test_half_a_step_is_not_saved(toy: Path, tmp_path: Path) -> None:
    """A resumed training has not saved yet; the first half of its first step must not count as the state after it."""

    class Kill(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, pl_module: object, batch: object, batch_idx: int) -> None:
            if batch_idx == 5:
                raise KeyError("killed")

    def train(*callbacks: L.Callback, ckpt_path: Path | None = None) -> None:
        settings = {"enable_checkpointing": True, "accumulate_grad_batches": 2}
        trainer = tiny_trainer(tmp_path, 3, [*callbacks, LastCheckpoint(every_n_train_steps=2)], **settings)
        trainer.fit(TraceCaptioning(tiny_core(), tiny_optimizer()), toy_narratives(toy), ckpt_path=ckpt_path)

    with pytest.raises(KeyError):
        train(Kill())
    (file,) = tmp_path.rglob("last.ckpt")
    before = file.read_bytes()
    with pytest.raises(KeyError):
        train(Kill(), ckpt_path=file)
    assert [f.read_bytes() for f in tmp_path.rglob("last.ckpt")] == [before]
