"""Joint training: every batch has the loss of its own task, and one model answers all questions."""

import json
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import yaml
from torch import Tensor

from callbacks.evaluation_report import EvaluationReport
from callbacks.referring_pictures import ReferringPictures
from callbacks.trace_pictures import TracePictures
from datamodules.base import ShardDataModule
from datamodules.image_captions import ImageCaptionDataModule
from datamodules.mixture import MixtureDataModule
from pixel_llm.checkpoint_io import CheckpointFiles
from pixel_llm.core.pixel_llm import PixelLLM
from pixel_llm.core.proposal_head import ProposalHead
from pixel_llm.predictor import Predictor
from pixel_llm.tasks.base import PixelLLMTask
from pixel_llm.tasks.dense_captioning import DenseCaptioning
from pixel_llm.tasks.image_captioning import ImageCaptioning
from pixel_llm.tasks.joint import JointTraining
from pixel_llm.tasks.referring_localization import ReferringLocalization
from pixel_llm.tasks.trace_captioning import TraceCaptioning
from tests.runs import (
    PROPOSAL_HEAD,
    OneBatch,
    command,
    fit,
    tiny_joint_config,
    tiny_optimizer,
    tiny_trainer,
    write_config,
)
from tests.tiny import tiny_core, toy_narratives, toy_referring, toy_regions


def core_with_detector() -> PixelLLM:
    return tiny_core(proposal_head=lambda channels: ProposalHead(channels, **PROPOSAL_HEAD["init_args"]))


def joint(**changes: Any) -> JointTraining:
    return JointTraining(core_with_detector(), tiny_optimizer(), **{"max_tokens": 12} | changes)


def toy_captions(toy: Path, **changes: Any) -> ImageCaptionDataModule:
    narratives = toy_narratives(toy, **changes)
    settings = {f"{split}_shards": folders for split, folders in narratives.folders.items()}
    return ImageCaptionDataModule(
        **settings, tokenizer=str(toy / "tokenizer"), image_size=64, batch_size=narratives.batch_size, num_workers=0
    )


def sources(toy: Path) -> dict[str, ShardDataModule]:
    return {
        "localized_narratives": toy_narratives(toy),
        "image_captions": toy_captions(toy),
        "referring": toy_referring(toy),
        "regions": toy_regions(toy),
    }


def mixture(toy: Path, batch_size: int = 4, **changes: Any) -> MixtureDataModule:
    data = list(sources(toy).values())
    settings: dict[str, Any] = {"batch_size": batch_size, "num_workers": 0} | changes
    return MixtureDataModule(data, [1.0] * len(data), **settings)


class Steps(L.Callback):
    """What each step came from, its loss and the gradients of its parts."""

    def __init__(self) -> None:
        self.sources: list[str] = []
        self.losses: list[float] = []
        self.gradients: list[dict[str, Tensor]] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        self.sources.append(batch.sources[0])
        self.losses.append(outputs["loss"].item())

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        self.gradients.append({n: p.grad.clone() for n, p in pl_module.named_parameters() if p.grad is not None})


@pytest.mark.parametrize(
    "kind", ["localized_narratives", "image_captions", "referring", "regions"]
)
def test_a_batch_is_learned_as_in_its_own_task(toy: Path, tmp_path: Path, kind: str) -> None:
    """The same losses and gradients in the same steps; what the task does not use has a gradient of zero."""
    makers: dict[str, type[PixelLLMTask]] = {
        "localized_narratives": TraceCaptioning,
        "image_captions": ImageCaptioning,
        "referring": ReferringLocalization,
        "regions": DenseCaptioning,
    }
    settings: dict[str, Any] = {"captioned_per_image": 16} if kind == "regions" else {}
    alone = makers[kind](core_with_detector(), tiny_optimizer(), **settings)
    alone.core.location_head.requires_grad_(True)
    seen = []
    for task in (alone, joint()):
        steps = Steps()
        seen.append((fit(task, OneBatch(sources(toy)[kind], 3), tmp_path, 3, [steps]), steps.gradients))
    (losses, gradients), (joint_losses, joint_gradients) = seen
    assert joint_losses == losses
    assert joint_gradients[0].keys() == {n for n, p in alone.named_parameters() if p.requires_grad}
    for mine, all_of_them in zip(gradients, joint_gradients, strict=True):
        for name, gradient in all_of_them.items():
            assert torch.equal(gradient, mine.get(name, torch.zeros_like(gradient)))


def test_each_kind_trains_its_own_parts(toy: Path, tmp_path: Path) -> None:
    """Queries and narratives train the location head, regions alone the detector, all the language model."""
    steps = Steps()
    fit(joint(), mixture(toy, seed=1), tmp_path, 6, [steps])
    assert set(steps.sources) == set(sources(toy))
    for kind, gradients in zip(steps.sources, steps.gradients, strict=True):
        trained = {name.split(".")[1] for name, gradient in gradients.items() if gradient.any()}
        common = {"tuned_encoder", "prompt_feature_extractor", "language_model"}
        own = {"localized_narratives": {"location_head"}, "referring": {"location_head"}, "regions": {"proposal_head"}}
        assert trained == common | own.get(kind, set())


def test_losses_are_weighted_and_logged_by_kind(toy: Path, tmp_path: Path) -> None:
    class Read(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
            logged.append({name: float(value) for name, value in trainer.callback_metrics.items()})

    logged: list[dict[str, float]] = []
    losses = fit(joint(loss_weights={"referring": 3.0}), OneBatch(toy_referring(toy), 1), tmp_path, 1, [Read()])
    assert logged[0]["train/loss"] == losses[0] == pytest.approx(3 * logged[0]["train/referring/loss"])
    assert logged[0].keys() == {"train/loss", "train/referring/loss", "train/referring/box_px"}
    with pytest.raises(ValueError, match="loss_weights: refering is none of"):
        joint(loss_weights={"refering": 1.0})


def test_it_is_evaluated_on_each_kind(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The figures of each task, with one file of predictions and one folder of pictures for each."""
    monkeypatch.setenv("PATH", "")  # no Java: faster
    data = mixture(toy, evaluate_each=True)
    callbacks = [EvaluationReport(), TracePictures(images=1), ReferringPictures(images=1)]
    task = joint()
    trainer = tiny_trainer(tmp_path, 2, callbacks, limit_val_batches=1, val_check_interval=2)
    trainer.fit(task, data)
    logged = set(trainer.callback_metrics)
    assert {"val/localized_narratives/lbm_k0", "val/image_captions/loss", "val/regions/detection"} <= logged
    assert "val/referring/toy_unc_val/p50" in logged
    assert not any("dataloader_idx" in name for name in logged)
    (tmp_path / "pictures/traces/step_000002_0.png").unlink()
    (tmp_path / "pictures/referring/step_000002_0.png").unlink()

    tiny_trainer(tmp_path, 2, [EvaluationReport()], limit_test_batches=1).test(task, data, verbose=False)
    figures = json.loads((tmp_path / "test.json").read_text())
    assert {"localized_narratives/cider", "image_captions/cider", "regions/toy_unc_test/map"} <= figures.keys()
    one = ReferringLocalization(task.core, tiny_optimizer())
    tiny_trainer(tmp_path / "one", 2, [EvaluationReport()], limit_test_batches=1).test(
        one, toy_referring(toy), verbose=False
    )
    own = json.loads((tmp_path / "one/test.json").read_text())
    assert {n.removeprefix("referring/"): v for n, v in figures.items() if n.startswith("referring/")} == own
    for kind in sources(toy):
        assert (tmp_path / f"test_{kind}.jsonl").read_text()
    assert (tmp_path / "test_referring.jsonl").read_text() == (tmp_path / "one/test.jsonl").read_text()


def test_batches_of_several_kinds_are_refused(toy: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="set single_source_batches"):
        fit(joint(), mixture(toy, single_source_batches=False), tmp_path, 4)
    without_detector = JointTraining(tiny_core(), tiny_optimizer())
    with pytest.raises(ValueError, match="this model without a proposal head does not learn from regions"):
        fit(without_detector, OneBatch(toy_regions(toy), 1), tmp_path, 1)


@pytest.fixture(scope="module")
def joint_run(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("joint")
    done = command("fit", "--config", write_config(folder / "config.yaml", tiny_joint_config(toy, folder / "run", 2)))
    assert done.returncode == 0, done.stderr
    return folder


def test_one_checkpoint_answers_all_questions(toy: Path, tmp_path: Path, joint_run: Path) -> None:
    """As in the evaluation of each task, which reads its own prompts."""
    predictor = Predictor(joint_run / "run")
    content = yaml.safe_load((joint_run / "config.yaml").read_text())["data"]["init_args"]["sources"]
    settings = [{n: v for n, v in source["init_args"].items() if not n.endswith("_shards")} for source in content]
    narratives, referring, regions = (
        make(toy, **own | {"tokenizer": str(toy / "tokenizer")})
        for make, own in zip((toy_narratives, toy_referring, toy_regions), settings, strict=True)
    )
    record = narratives.test_dataloader().source.record(0)  # type: ignore[union-attr]
    said = evaluated(predictor, narratives, tmp_path)
    expected = next(answer for answer in said if answer.key.startswith(record["__key__"]))
    assert predictor.caption(record["jpg"]).caption == expected.caption

    record = referring.test_dataloader().source.record(0)  # type: ignore[union-attr]
    expressions = json.loads(record["json"])["expressions"]
    boxes = {answer.key.partition("/")[2]: answer.box for answer in evaluated(predictor, referring, tmp_path)}
    for expression, answer in zip(
        expressions, predictor.refer(record["jpg"], [e["text"] for e in expressions]), strict=True
    ):
        assert answer.box == pytest.approx(boxes[expression["id"]], abs=1e-3)

    record = regions.test_dataloader().source.record(0)  # type: ignore[union-attr]
    image = f"toy_unc_test/{json.loads(record['json'])['image_id']}"
    found = [answer for answer in evaluated(predictor, regions, tmp_path) if answer.key == image]
    answers = predictor.dense_caption(record["jpg"])
    assert [a.caption for a in answers] == [a.caption for a in found] != []
    described = predictor.describe(record["jpg"], [answer.box for answer in answers])
    assert [a.caption for a in described] == [a.caption for a in answers]


def evaluated(predictor: Predictor, data: ShardDataModule, folder: Path) -> list[Any]:
    batches = tiny_trainer(folder, 1).predict(predictor.task, data, return_predictions=True)
    return [answer for batch in batches or [] for answer in batch]


def test_its_checkpoint_is_tested_by_each_task_but_not_trained_on(toy: Path, tmp_path: Path, joint_run: Path) -> None:
    task = DenseCaptioning(Predictor(joint_run / "run").task.core, tiny_optimizer())  # type: ignore[arg-type]
    checkpoint = joint_run / "run/checkpoints/last.ckpt"
    files: dict[str, Any] = {"plugins": [CheckpointFiles()]}
    tiny_trainer(tmp_path, 1, **files).test(task, toy_regions(toy), ckpt_path=checkpoint, verbose=False)
    with pytest.raises(ValueError, match="a checkpoint of JointTraining, not of DenseCaptioning"):
        fit(task, toy_regions(toy), tmp_path, 3, ckpt_path=checkpoint, **files)


class Record(L.Callback):
    """Writes the losses of all steps, and the weights at the end, of this process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.losses: list[Tensor] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: Any) -> None:
        self.losses.append(outputs["loss"])

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        content = {"losses": torch.stack(self.losses), "weights": pl_module.state_dict()}
        torch.save(content, self.folder / f"{trainer.world_size}_{trainer.global_rank}.pt")


@pytest.mark.slow
def test_two_processes_train_as_one(toy: Path, tmp_path: Path) -> None:
    """Neither waits for the gradients of what a batch does not use. Narratives, queries, narratives, regions, ..."""
    for processes in (1, 2):
        data = mixture(toy, 4 // processes, seed=8)
        strategy = "ddp_spawn" if processes == 2 else "auto"
        fit(joint(), data, tmp_path, 8, [Record(tmp_path)], devices=processes, strategy=strategy)
    one, *two = (torch.load(tmp_path / f"{name}.pt") for name in ("1_0", "2_0", "2_1"))
    torch.testing.assert_close(two[0]["weights"], two[1]["weights"], atol=0, rtol=0)
    mean = (two[0]["losses"] + two[1]["losses"]) / 2
    assert len(mean) == 8
    torch.testing.assert_close(mean[:3], one["losses"][:3], atol=1e-4, rtol=1e-4)  # boxes of regions are drawn
