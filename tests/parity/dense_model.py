"""Whole models with a detector against the published ones: dense captioning, and all tasks in one model."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pixel_llm.coordinates import boxes_01_to_canvas_px
from pixel_llm.core.pixel_llm import PixelLLM
from pixel_llm.detection_losses import detection_loss, roi_loss
from pixel_llm.losses import caption_loss
from pixel_llm.structures import ImageFeatures, Prompts, Regions, RoISamples
from pixel_llm.tasks.dense_captioning import first_matches
from tests.parity.golden import Golden
from tests.parity.report import Report
from tests.parity.whole_model import (
    TOLERANCE,
    check_boxes,
    check_generation,
    check_gradients,
    check_masks,
    check_metric,
    check_points,
    check_training,
    check_visual_features,
    images_and_sizes,
    load_golden_model,
)


def check_dense_model(report: Report, path: Path) -> None:
    """A model for dense captioning alone, or one for everything."""
    golden, core, parameters = load_golden_model(report, path)
    report.skip(golden.name, "not built: boxes that end at the border of the padded canvas, made here; ours in images")
    for case in golden.outputs:
        if case == "infer_beam_rescore":
            report.skip(golden.name, "not built: many captions of one box among the answers; ours has its best alone")
        elif case == "infer_loca":
            _check_given_boxes(report, golden, core, case)
        elif case.startswith("infer"):
            _check_inference(report, golden, core, case)
        elif _learns_boxes(golden, case):
            with _nearly_zero_is_positive(core):
                _check_training(report, golden, core, parameters, case)
        else:  # the published model looks for boxes all the same, and multiplies that loss by 0
            check_training(report, golden, core, parameters, case)
            features = _features(golden, core, case)
            _check_detection(report, golden, core, case, features, _truth(golden, case, exists=False))


def _learns_boxes(golden: Golden, case: str) -> bool:
    mask = golden.arrays.get(f"{case}/in/label/proposal_loss_valid_mask")
    return mask is None or bool(mask.any())


@contextmanager
def _nearly_zero_is_positive(core: PixelLLM) -> Iterator[None]:
    """Within, what the detector's first ReLU reads as zero but for rounding lets gradients through.

    model_t5_joint has such a value: 1e-6 below zero here, and above it where the golden gradients were made.
    """
    assert core.proposal_head is not None
    norm = core.proposal_head.centernet.tower[1]
    handle = norm.register_forward_hook(lambda _, __, out: out + 2e-6 * (out.abs() < 2e-6))
    try:
        yield
    finally:
        handle.remove()


def _features(golden: Golden, core: PixelLLM, case: str) -> ImageFeatures:
    """Features whose real part is the whole canvas: the published boxes are not cut at the borders of the images."""
    features = core.encode_images(*images_and_sizes(golden, case))
    return replace(features, sizes=torch.tensor(features.canvas).expand_as(features.sizes))


def _truth(golden: Golden, case: str, exists: bool = True) -> Regions:
    """The true boxes, with those that fill up; none of them has an area where they do not exist."""
    boxes = golden.inputs(case, "label/boxes") / golden.inputs(case, "inputs").shape[1] * exists
    return Regions(torch.arange(len(boxes)).repeat_interleave(boxes.shape[1]), boxes.flatten(0, 1))


@torch.enable_grad()
def _check_training(
    report: Report, golden: Golden, core: PixelLLM, parameters: dict[str, np.ndarray], case: str
) -> None:
    """Boxes and the captions of some of them: outputs, losses and gradients."""
    features, truth = _features(golden, core, case), _truth(golden, case)
    samples, detection = _check_detection(report, golden, core, case, features, truth)
    per_image = golden.config["model"]["num_text_proposals"]
    first = torch.cat([(samples.image_index == i).nonzero()[:per_image, 0] for i in range(len(features.sizes))])
    has_match = samples.matched[first] >= 0
    pixels = boxes_01_to_canvas_px(samples.boxes[first], features.sizes[samples.image_index[first]])
    report.check(golden.name, f"{case}/prompt_boxes", pixels, _flat(golden, case, "prompt_boxes"), TOLERANCE)
    report.check(golden.name, f"{case}/gt_classes", has_match, _flat(golden, case, "gt_classes"), 0.0)
    contexts = golden.inputs(case, "label/context_tokens").long().flatten(0, 1)
    prompts = Prompts(samples.image_index[first], samples.boxes[first])
    check_visual_features(report, golden, core, case, core.extract(features, prompts))

    rows = first_matches(samples, per_image)
    matched = samples.matched[rows]
    tokens = golden.inputs(case, "label/text_tokens").long().flatten(0, 1)[matched]
    want = _flat(golden, case, "gt_text_tokens")[has_match]
    report.check(golden.name, f"{case}/gt_text_tokens", tokens, want, 0.0)
    prompts = Prompts(samples.image_index[rows], samples.boxes[rows], contexts[matched])
    outputs = core(features, prompts, tokens)
    if f"{case}/out/point_coords" in golden.arrays:
        sizes = images_and_sizes(golden, case)[1][prompts.image_index]
        check_points(report, golden, case, outputs.locations, sizes, has_match)
    lm = core.language_model
    words = caption_loss(outputs.logits, tokens, lm.pad_id, lm.eos_id, smoothing=0.1)
    check_metric(report, golden, case, "text_loss", words)
    check_metric(report, golden, case, "total_loss", words + detection)
    check_gradients(report, golden, core, parameters, case, words + detection)


def _check_detection(
    report: Report, golden: Golden, core: PixelLLM, case: str, features: ImageFeatures, truth: Regions
) -> tuple[RoISamples, Tensor]:
    """Sampled boxes and their loss, which are returned."""
    assert core.proposal_head is not None
    outputs = core.proposal_head(features)
    samples = core.proposal_head.sample(outputs, truth)
    want = _flat(golden, case, "last_proposals")
    pixels = boxes_01_to_canvas_px(samples.boxes, features.sizes[samples.image_index])
    report.check(golden.name, f"{case}/last_proposals", pixels, want[(want[:, 2:] > want[:, :2]).all(1)], TOLERANCE)
    loss, (roi_class, roi_box) = detection_loss(outputs, samples, truth), roi_loss(samples)
    of_places = roi_box * len(samples.boxes) / len(want)  # published per place, also of those that nothing fills
    total = loss.total - roi_box + of_places
    names = {"reg_loss": loss.box, "stage0_roi_cls_loss": roi_class, "stage0_roi_reg_loss": of_places}
    for name, got in (names | {"det_loss": total}).items():
        check_metric(report, golden, case, name, got)
    want_heat = sum(golden.output(case, f"metrics/{name}") for name in ("pos_loss", "neg_loss"))
    report.check(golden.name, f"{case}/pos_loss + neg_loss", loss.heat_map, want_heat, TOLERANCE)
    return samples, total


def _check_inference(report: Report, golden: Golden, core: PixelLLM, case: str) -> None:
    assert core.proposal_head is not None
    batch = "infer_greedy" if "infer_greedy" in golden.outputs else "infer_densecap"
    features = _features(golden, core, batch)
    found = core.proposal_head.detect(core.proposal_head(features))
    assert found.scores is not None
    pixels = boxes_01_to_canvas_px(found.boxes, features.sizes[found.image_index])
    report.check(golden.name, f"{case}/detection_boxes", pixels, _flat(golden, case, "detection_boxes"), TOLERANCE)
    context = golden.inputs(batch, "label/context_tokens").long().flatten(0, 1)
    prompts = Prompts(found.image_index, found.boxes, context)
    check_visual_features(report, golden, core, case, core.extract(features, prompts))
    tokens, generation = check_generation(report, golden, core, case, features, prompts)
    scores = found.scores
    if case.endswith("rescore"):
        scores = (scores * generation.scores.exp()).sqrt()
    report.check(golden.name, f"{case}/detection_scores", scores, _flat(golden, case, "detection_scores"), TOLERANCE)
    if core.mask_head is None:
        return
    read = core.locate(features, prompts, tokens)
    check_masks(report, golden, core, case, features, prompts, read, pixels)
    if f"{case}/out/point_coords" in golden.arrays:
        sizes = images_and_sizes(golden, batch)[1][prompts.image_index]
        check_points(report, golden, case, generation.locations, sizes)
        check_boxes(report, golden, case, "point_detection_boxes", read, sizes)


def _check_given_boxes(report: Report, golden: Golden, core: PixelLLM, case: str) -> None:
    """Captions of true boxes; the published prompts of those that fill up are clicks on the corner of the image."""
    features, truth = _features(golden, core, "train"), _truth(golden, "train")
    rows = (truth.boxes[:, 2:] > truth.boxes[:, :2]).all(1)
    context = golden.inputs("train", "label/context_tokens").long().flatten(0, 1)[rows]
    prompts = Prompts(truth.image_index[rows], truth.boxes[rows], context)
    check_visual_features(report, golden, core, case, core.extract(features, prompts), rows)
    check_generation(report, golden, core, case, features, prompts, rows)


def _flat(golden: Golden, case: str, name: str) -> Tensor:
    """An output of all prompts or boxes of all images."""
    return torch.from_numpy(golden.output(case, name)).flatten(0, 1)
