"""Referring: answers, their independence, the loss, what trains, and the evaluation of real photos."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from pycocotools import mask as coco_mask
from torch import Tensor

from callbacks.evaluation_report import EvaluationReport
from datamodules.prepare.command import main as prepare
from pixel_llm.structures import Batch, Prompts, Targets
from pixel_llm.tasks.referring_localization import ReferringLocalization
from tests.runs import tiny_optimizer, tiny_trainer
from tests.tiny import random_inputs, tiny_core, toy_referring

LENGTHS = (5, 9, 3, 7, 4, 6)  # of the queries, <bos> and </s> included; two about each of three images


def tiny_task(adapter: str = "embedding", **changes: Any) -> ReferringLocalization:
    """A task with masks, in evaluation; its adapter adds something from the start."""
    core = tiny_core(mask_adapter=adapter)
    assert core.mask_head is not None
    with torch.no_grad():
        for name, parameter in core.mask_head.adapter.named_parameters():
            if name in ("gate", "embedding"):
                parameter.normal_()
    task = ReferringLocalization(core, tiny_optimizer(), **({"segment": True} | changes)).eval()
    task.log_losses = lambda *_: None  # type: ignore[method-assign]  # there is no trainer
    return task


def batch_of(lengths: tuple[int, ...] = LENGTHS, context: bool = False) -> Batch:
    """Three images with two random queries each; the third query names nothing, the fourth has no mask."""
    canvases, sizes, prompts = random_inputs(images=3)
    boxes, tokens = prompts.boxes, torch.zeros(len(lengths), max(lengths), dtype=torch.long)
    located = torch.zeros(tokens.shape, dtype=torch.bool)
    masks = torch.zeros(len(lengths), 64, 64, dtype=torch.bool)
    generator = torch.Generator().manual_seed(2)
    for row, length in enumerate(lengths):
        tokens[row, 1:length] = torch.randint(3, 200, (length - 1,), generator=generator)
        tokens[row, length - 1] = 1
        located[row, length - 1] = row != 2
        x0, y0, x1, y1 = (64 * boxes[row]).int().tolist()
        masks[row, y0 : y1 + 1, x0 : x1 + 1] = row not in (2, 3)
    corners = torch.where(located[..., None, None], boxes.view(-1, 1, 2, 2), 0.0)
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(len(lengths), 4)
    return Batch(
        keys=["a", "b", "c"],
        positions=[0, 1, 2],
        images=canvases,
        sizes=sizes,
        original_sizes=2 * sizes,
        prompts=Prompts(prompts.image_index, whole, prompts.context if context else None),
        targets=Targets(tokens, corners, located),
        references=[None] * len(lengths),
        masks=masks,
    )


def only(batch: Batch, image: int, rows: list[int]) -> Batch:
    """One image of a batch with some of its queries, which are padded no more than they need."""
    targets, prompts = batch.targets, batch.prompts
    assert targets is not None
    tokens = targets.tokens[rows]
    longest = int((tokens == 1).int().argmax(1).max()) + 1
    return Batch(
        keys=[batch.keys[image]],
        positions=[0],
        images=batch.images[[image]],
        sizes=batch.sizes[[image]],
        original_sizes=batch.original_sizes[[image]],
        prompts=Prompts(
            torch.zeros(len(rows), dtype=torch.long),
            prompts.boxes[rows],
            None if prompts.context is None else prompts.context[rows],
        ),
        targets=Targets(tokens[:, :longest], targets.locations[rows, :longest], targets.located[rows, :longest]),
        references=[None] * len(rows),
    )


def found(task: ReferringLocalization, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes, mask logits and expected IoU, as the task's answers are made from them."""
    features = task.encode(batch)
    assert batch.targets is not None
    located = task.core.locate(features, batch.prompts, batch.targets.tokens)
    return located.boxes, *task.core.segment(features, batch.prompts, located, located.boxes)


@torch.no_grad()
@pytest.mark.parametrize("context", [False, True])
@pytest.mark.parametrize("adapter", ["embedding", "gated"])
def test_answers_depend_on_the_image_and_the_query_alone(adapter: str, context: bool) -> None:
    task, batch = tiny_task(adapter), batch_of(context=context)
    together = found(task, batch)
    for image, rows in ((0, [0, 1]), (1, [2]), (1, [3]), (2, [5, 4])):
        alone = found(task, only(batch, image, rows))
        for whole, part in zip(together, alone, strict=True):
            torch.testing.assert_close(part, whole[rows], atol=1e-5, rtol=1e-5)
    assert (together[0][:, None] - together[0]).abs().amax(-1).add(torch.eye(6)).min() > 1e-4  # they do depend on it


@pytest.mark.parametrize("work", ["loss", "answer"])
def test_queries_of_an_image_share_one_encoding(work: str) -> None:
    task, batch = tiny_task(), batch_of()
    encoded: list[int] = []
    for encoder in (task.core.sam_encoder, task.core.tuned_encoder):
        encoder.register_forward_hook(lambda _, inputs, __: encoded.append(len(inputs[0])))
    if work == "loss":
        task.loss(batch, "train")
    else:
        assert len(task.predict_step(batch, 0)) == 6
    assert encoded == [3, 3]


@torch.no_grad()
def test_answers_are_in_pixels_of_the_original_images() -> None:
    task, batch = tiny_task(), batch_of()
    boxes, logits, _ = found(task, batch)
    for row, answer in enumerate(task.predict_step(batch, 0)):
        height, width = batch.original_sizes[row // 2].tolist()
        wanted = boxes[row].clamp(0, 1) * torch.tensor([width, height, width, height])
        assert answer.box == pytest.approx(wanted.tolist(), abs=1e-3)
        assert answer.mask is not None
        assert answer.mask["size"] == [height, width]
        cells = logits[row, 0, : height // 8, : width // 8] > 0  # a cell of the mask is 8 pixels of the image
        centres = coco_mask.decode(answer.mask)[4::8, 4::8]
        assert (torch.from_numpy(centres).bool() == cells).float().mean() > 0.9


def focal_and_dice(logits: Tensor, truth: Tensor, real: tuple[int, int]) -> tuple[float, float]:
    """Of one mask, written out; focal over the real part, dice over the canvas."""
    p = logits.double().sigmoid().numpy()
    t = truth.double().numpy()
    right = np.where(t > 0, p, 1 - p)
    focal = (0.5 * (1 - right) ** 2 * -np.log(right))[: real[0], : real[1]].mean()
    return focal, 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)


@torch.no_grad()
def test_loss_is_that_of_the_located_queries() -> None:
    task, batch = tiny_task(location_weight=0.3), batch_of()
    boxes_only = tiny_task(location_weight=0.3, segment=False)
    assert batch.targets is not None
    assert batch.masks is not None
    _, logits, iou = found(task, batch)
    corners = task.core.locate(task.encode(batch), batch.prompts, batch.targets.tokens).corners
    truth = random_inputs(images=3)[2].boxes.view(-1, 2, 2)
    distances, terms = [], []
    for row in (0, 1, 3, 4, 5):
        height, width = batch.sizes[row // 2].tolist()
        distances.append(((corners[row] - truth[row]).abs() * torch.tensor([width, height])).mean().item())
        if row != 3:
            canvas = torch.nn.functional.interpolate(logits[[row]], (64, 64), mode="bilinear")[0, 0]
            focal, dice = focal_and_dice(canvas, batch.masks[row], (height, width))
            guess = canvas > 0
            actual = (guess & batch.masks[row]).sum() / (guess | batch.masks[row]).sum()
            terms.append(20 * focal + dice + (iou[row, 0] - actual).square().item())
    box = 0.3 * np.mean(distances)
    assert boxes_only.loss(batch, "train").item() == pytest.approx(box, rel=1e-5)
    assert task.loss(batch, "train").item() == pytest.approx(box + np.mean(terms), rel=1e-5)


def trained_parts(task: ReferringLocalization) -> set[str]:
    """Parts of the core that get a gradient; those of the mask head by their own names."""
    task.train()
    task.loss(batch_of(context=True), "train").backward()
    reached = {n for n, p in task.core.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    return {".".join(name.split(".")[: 2 if name.startswith("mask_head") else 1]) for name in reached}


BOXES = {"tuned_encoder", "prompt_feature_extractor", "language_model", "location_head"}


@pytest.mark.parametrize("adapter", ["embedding", "gated"])
def test_sams_encoders_never_train(adapter: str) -> None:
    assert trained_parts(tiny_task(adapter, segment=False)) == BOXES
    frozen = ["mask_head.decoder"]
    assert trained_parts(tiny_task(adapter, frozen=frozen)) == {*BOXES, "mask_head.adapter"}


def test_a_later_stage_trains_what_is_not_frozen() -> None:
    """The published stages of segmentation: adapter and location head, then the adapter alone."""
    frozen = ["tuned_encoder", "prompt_feature_extractor", "language_model", "mask_head.decoder"]
    assert trained_parts(tiny_task("gated", frozen=frozen)) == {"location_head", "mask_head.adapter"}
    assert trained_parts(tiny_task("gated", frozen=[*frozen, "location_head"])) == {"mask_head.adapter"}
    with pytest.raises(ValueError, match="no part 'language_modell'"):
        tiny_task(frozen=["language_modell"])


def test_a_batch_without_masks_leaves_no_part_out() -> None:
    """Processes that train together reduce the gradients of the same parts, whatever data each has."""
    task, batch = tiny_task(frozen=["mask_head.decoder"]).train(), batch_of()
    with_masks = {name for name, gradient in gradients(task, batch).items() if gradient is not None}
    batch.masks = None
    without = gradients(task, batch)
    assert {name for name, gradient in without.items() if gradient is not None} == with_masks
    assert without["mask_head.adapter.embedding"].abs().max() == 0


def gradients(task: ReferringLocalization, batch: Batch) -> dict[str, Any]:
    task.zero_grad()
    task.loss(batch, "train").backward()
    return {name: parameter.grad for name, parameter in task.core.named_parameters()}


def test_masks_need_a_mask_head() -> None:
    with pytest.raises(ValueError, match="mask_adapter"):
        ReferringLocalization(tiny_core(), tiny_optimizer(), segment=True)


def test_the_true_box_may_ask_for_the_mask() -> None:
    """The masks' loss is then the same wherever the location head points."""
    losses = {}
    for mask_box in ("predicted", "true"):
        task, batch = tiny_task(location_weight=0.0, mask_box=mask_box), batch_of()
        before = task.loss(batch, "train").item()
        with torch.no_grad():
            list(task.core.location_head.parameters())[-1].add_(0.2)
        losses[mask_box] = (before, task.loss(batch, "train").item())
    assert losses["true"][0] == losses["true"][1]
    assert abs(losses["predicted"][0] - losses["predicted"][1]) > 1e-4


def test_evaluation_asks_all_or_the_first_expressions_and_says_so(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = {}
    for first, note in ((None, "all expressions"), (2, "the first 2 expressions of each image")):
        task = ReferringLocalization(tiny_core(), tiny_optimizer())
        data = toy_referring(toy, evaluation_expressions=first)
        [figures] = tiny_trainer(tmp_path, 1).test(task, data, verbose=False)
        counts[first] = figures["test/toy_unc_test/expressions"]
        assert note in capsys.readouterr().out
    per_image: dict[Any, int] = {}
    for batch in toy_referring(toy, batch_size=1).test_dataloader():
        per_image[batch.keys[0]] = len(batch.references)
    assert counts == {None: sum(per_image.values()), 2: sum(min(2, number) for number in per_image.values())}
    assert counts[2] < counts[None]


# --- real photos -------------------------------------------------------------------------------------------------


def write_lines(refs: list[dict[str, Any]], folder: Path) -> None:
    """The refs as JSON lines, a file for each split, with the ids REF-SENTENCE."""
    folder.mkdir()
    for number, ref in enumerate(refs):
        x, y, width, height = ref["bbox"]
        shared = {"image": ref["file_name"], "width": ref["width"], "height": ref["height"]}
        shared |= {"box": [x, y, x + width, y + height], "mask": ref.get("segmentation")}
        with (folder / f"{split_of(ref)}.jsonl").open("a") as file:
            for place, sentence in enumerate(ref["sentences"]):
                line = shared | {"expression": sentence, "id": f"{number}-{place}"}
                file.write(json.dumps(line) + "\n")


def split_of(ref: dict[str, Any]) -> str:
    return f"{ref['dataset'].replace('+', 'plus')}_{'umd' if ref['dataset'] == 'refcocog' else 'unc'}_{ref['split']}"


def recomputed(refs: list[dict[str, Any]], answers: dict[str, dict[str, Any]], split: str) -> dict[str, float]:
    """P@0.5, cIoU and mean IoU of a split, from the raw annotations and the written answers."""
    boxes, inter, union = [], [], []
    for number, ref in enumerate(refs):
        for place in range(len(ref["sentences"]) if split_of(ref) == split else 0):
            answer = answers.pop(f"{split}/{number}-{place}")
            x0, y0, x1, y1 = answer["box"]
            x, y, w, h = ref["bbox"]
            both = max(0, min(x1, x + w) - max(x0, x)) * max(0, min(y1, y + h) - max(y0, y))
            boxes.append(both / (w * h + (x1 - x0) * (y1 - y0) - both))
            if ref.get("segmentation"):
                polygons = coco_mask.frPyObjects(ref["segmentation"], ref["height"], ref["width"])
                truth, guess = coco_mask.decode(coco_mask.merge(polygons)), coco_mask.decode(answer["mask"])
                inter.append((truth & guess).sum())
                union.append((truth | guess).sum())
    figures = {"expressions": len(boxes), "p50": np.mean(np.array(boxes) > 0.5), "box_iou": np.mean(boxes)}
    if inter:
        figures |= {"ciou": np.sum(inter) / np.sum(union), "giou": np.mean(np.divide(inter, union))}
    return figures


@pytest.mark.shared
def test_real_photos_are_evaluated_whole(shared: Path, toy: Path, tmp_path: Path) -> None:
    refs = json.loads((shared / "samples/refcoco/refs_with_image.json").read_text())
    write_lines(refs, tmp_path / "raw")
    folders = ["--images", str(shared / "samples/images/coco"), "--out", str(tmp_path / "shards")]
    assert prepare(["referring", "--annotations", str(tmp_path / "raw"), *folders, "--workers", "1"]) == 0
    shards = sorted(str(path) for path in (tmp_path / "shards").iterdir())
    data = toy_referring(toy, test_shards=shards)
    task = tiny_task()
    with torch.no_grad():  # an untrained model finds a point in the middle; some of these boxes hit
        list(task.core.location_head.parameters())[-1].copy_(torch.tensor([-0.6, -0.8, 0.6, 0.8]))
    trainer = tiny_trainer(tmp_path, 1, [EvaluationReport()], logger=CSVLogger(tmp_path / "run", "", ""))
    trainer.test(task, data, verbose=False)
    lines = [json.loads(line) for line in (tmp_path / "run/test.jsonl").read_text().splitlines()]
    figures = json.loads((tmp_path / "run/test.json").read_text())
    answers = {line["key"]: line for line in lines}
    assert len(lines) == len(answers) == sum(len(ref["sentences"]) for ref in refs)
    for split in {split_of(ref) for ref in refs}:
        wanted = recomputed(refs, answers, split)
        got = {name: figures[f"{split}/{name}"] for name in wanted}
        assert got == pytest.approx(wanted, abs=1e-6)
    assert not answers
    assert any(figures[f"{split_of(ref)}/p50"] > 0 for ref in refs)
