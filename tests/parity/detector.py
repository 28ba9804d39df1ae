"""The detector against the published one: pyramid, heads, targets, losses, gradients, detections."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

from pixel_llm.coordinates import boxes_01_to_canvas_px, boxes_canvas_px_to_01
from pixel_llm.core.centernet_head import CenterNetHead, cell_grid
from pixel_llm.core.feature_pyramid import SimpleFeaturePyramid
from pixel_llm.core.proposal_head import ProposalHead, suppress
from pixel_llm.core.roi_head import align, decode_boxes, encode_boxes, match_boxes
from pixel_llm.detection_losses import center_targets, detection_loss, roi_loss
from pixel_llm.structures import DetectorOutputs, ImageFeatures, Regions
from pixel_llm.weights import published
from pixel_llm.weights.tensors import load_tensors
from tests.parity.core_components import channels_first, channels_last
from tests.parity.golden import Golden, read_golden
from tests.parity.report import Report
from tests.parity.whole_model import check_gradients

TOLERANCE, WHOLE = 2e-5, 1e-4
STRIDES = torch.tensor([8.0, 16.0, 32.0, 64.0, 128.0])[:, None].expand(-1, 2)
CANVAS = (128, 128)


def check_fpn(report: Report, path: Path) -> None:
    golden = read_golden(path)
    channels, upsampled_width = golden.parameters["simfp_3.0/kernel"].shape[2:]
    pyramid = SimpleFeaturePyramid(channels, golden.config["out_channels"], upsampled_width=upsampled_width)
    _load_part("pyramid", pyramid, "fpn", golden)
    for case, names in golden.outputs.items():
        maps = pyramid(channels_first(golden.inputs(case, "x")))
        for name, got in zip(names, maps, strict=True):
            report.check(golden.name, f"{case}/{name}", channels_last(got), golden.output(case, name), TOLERANCE)


def check_centernet_head(report: Report, path: Path) -> None:
    golden = read_golden(path)
    head = CenterNetHead(golden.config["out_channels"], golden.config["num_levels"])
    _load_part("centernet", head, "proposal_generator", golden)
    maps = [channels_first(golden.inputs("a", f"features/{level}")) for level in range(len(STRIDES))]
    heat_map, distances = head(maps)
    report.check(golden.name, "a/heatmaps", heat_map, _cells(golden, "a/out/heatmaps")[..., 0], TOLERANCE)
    report.check(golden.name, "a/box_regs", distances, _cells(golden, "a/out/box_regs"), TOLERANCE)


def check_centernet_targets(report: Report, path: Path) -> None:
    golden = read_golden(path)
    name = golden.name
    heat_map, distances = _cells(golden, "loss/in/heatmaps")[..., 0], _cells(golden, "loss/in/box_regs")
    maps = [torch.zeros(len(heat_map), 1, *shape) for shape in golden.inputs("targets", "level_shapes").tolist()]
    ranges = torch.tensor(golden.config["fpn_range"])
    sizes = torch.tensor([CANVAS] * len(heat_map))
    centers, levels = cell_grid(maps, STRIDES)
    report.check(name, "targets/grids", centers, golden.output("targets", "grids"), 0)
    outputs = DetectorOutputs(maps, heat_map, distances, centers, levels, STRIDES, ranges, sizes, CANVAS)
    truth = _truth(golden.inputs("targets", "gt_boxes"), CANVAS)

    targets = center_targets(outputs, truth)
    report.check(name, "targets/heatmap", targets.heat_map, golden.output("targets", "heatmap")[..., 0], TOLERANCE)
    wanted = golden.output("targets", "reg")
    inside = (wanted > -1e5).all(-1)
    report.check(name, "targets/reg, where", targets.inside, inside, 0)
    report.check(name, "targets/reg, values", targets.distances[inside], wanted[inside], TOLERANCE)
    loss = detection_loss(outputs, None, truth)
    got = {"total_loss": loss.total, "reg_loss": loss.box}
    got |= {"hm_norm": _per_image(targets.peak), "reg_norm": _per_image(targets.inside)}
    for key, value in got.items():
        report.check(name, f"loss/{key}", value, golden.output("loss", key), TOLERANCE)
    _check_heat_map(report, golden, loss.heat_map)

    for case, iou, kept in (("peaks", 1.0, 100), ("proposals", golden.config["iou_thresh"], 30)):
        head = ProposalHead(1, 2, norm_groups=1, pre_nms=(100, 100), post_nms=(kept, kept), proposal_nms=iou)
        proposals = head.propose(outputs, training=True)
        _check_regions(report, golden, case, ("boxes", "scores"), proposals, sizes)
    report.skip(name, "not built: peaks/classes, there is one class")


def check_nms(report: Report, path: Path) -> None:
    golden = read_golden(path)
    for case, outputs in golden.outputs.items():
        if "t0.3" in case:
            report.skip(golden.name, f"not built: {case}, below 0.5 boxes that were suppressed suppress others")
            continue
        boxes, scores = golden.inputs(case, "boxes"), golden.inputs(case, "scores")
        wanted = golden.output(case, "scores").ravel() > 0
        iou = float(case.split("_t")[1].split("_")[0]) if "_t" in case else 0.5
        index = torch.zeros(len(boxes), dtype=torch.long)
        kept = suppress(Regions(index, boxes, scores), boxes, 1, iou, len(wanted))
        if case == "degenerate":  # boxes left of the canvas, which a proposal loses when it is clipped
            seen = (kept.boxes > 0).any(1)
            kept = Regions(index, kept.boxes[seen], kept.scores[seen])  # type: ignore[index]
        for name in outputs:
            if name == "idx":
                continue  # the boxes say the same
            got = getattr(kept, name)
            want = golden.output(case, name).reshape(len(wanted), -1)[wanted]
            report.check(golden.name, f"{case}/{name}", got.view(want.shape), want, 0)
    report.skip(golden.name, "not built: boxes that fill up a fixed number of places")


def check_roi_align(report: Report, path: Path) -> None:
    golden = read_golden(path)
    feature, boxes = golden.inputs("single", "feature"), golden.inputs("single", "boxes")
    one = torch.zeros(len(boxes), dtype=torch.long)
    got = align([channels_first(feature[None])], torch.ones(1, 2), boxes, one)
    report.check(golden.name, "single/y", channels_last(got), golden.output("single", "y"), TOLERANCE)
    maps = [channels_first(golden.inputs("multi", f"features/{level}")) for level in range(len(STRIDES))]
    boxes, want = golden.inputs("multi", "boxes"), golden.output("multi", "y")
    index = torch.arange(len(boxes)).repeat_interleave(boxes.shape[1])
    got = align(maps, STRIDES, boxes.flatten(0, 1), index)
    report.check(golden.name, "multi/y", channels_last(got).reshape(want.shape), want, TOLERANCE)


def check_roi_utils(report: Report, path: Path) -> None:
    golden = read_golden(path)
    true, boxes = golden.inputs("iou", "gt"), golden.inputs("iou", "props")
    real = (true[:, 2:] > true[:, :2]).all(1)  # a true box without an area matches nothing: not asked
    got = box_iou(true, boxes).nan_to_num(0)
    report.check(golden.name, "iou/iou", got, golden.output("iou", "iou"), TOLERANCE)
    matched = np.where(golden.output("iou", "assignments") == 1, golden.output("iou", "matches"), -1)
    report.check(golden.name, "iou/matches", match_boxes(boxes, true[real], 0.6), matched, 0)
    matched = np.where(golden.output("match_gt", "classes") == 1, golden.output("match_gt", "idx"), -1)[0]
    report.check(golden.name, "match_gt/idx", match_boxes(boxes, true[real], 0.6), matched, 0)
    report.skip(golden.name, "not built: the best match of a box that has none")
    got = encode_boxes(golden.inputs("encode", "boxes"), golden.inputs("encode", "anchors"))
    report.check(golden.name, "encode/y", got, golden.output("encode", "y"), TOLERANCE)
    got = decode_boxes(golden.inputs("decode", "deltas"), golden.inputs("decode", "anchors"))
    report.check(golden.name, "decode/y", got, golden.output("decode", "y"), TOLERANCE)
    sizes = torch.tensor([[110, 90]]).expand(len(got), 2)
    clipped = boxes_01_to_canvas_px(boxes_canvas_px_to_01(got, sizes), sizes)
    report.check(golden.name, "decode/clipped", clipped, golden.output("decode", "clipped"), TOLERANCE)


def check_box_decoder(report: Report, path: Path) -> None:
    golden = read_golden(path)
    head = box_decoder(golden.config, golden.parameters)
    published.load(head, "box_decoder", golden.parameters)
    _check_detections(report, golden, head, "eval")
    outputs = head(_features(golden, "eval"))
    for part, got in (("heatmaps", outputs.heat_map[..., None]), ("box_regs", outputs.distances)):
        report.check(golden.name, f"eval/{part}", got, _cells(golden, f"eval/out/{part}"), WHOLE)
    _check_second_stage(report, golden, head, outputs)
    _check_training(report, golden, head)
    head.score_threshold, head.detections, head.detection_nms = 0.6, 20, 0.3
    _check_detections(report, golden, head, "eval_thresh")
    report.skip(golden.name, "not built: detections of which the border of the image leaves no area")


def box_decoder(config: dict, parameters: dict[str, np.ndarray]) -> ProposalHead:
    """A proposal head of the sizes of a published `box_decoder` of 64 channels, parameters without its name before."""
    channels, upsampled_width = parameters["fpn/simfp_3.0/kernel"].shape[2:]
    return ProposalHead(
        channels,
        width=64,
        upsampled_width=upsampled_width,
        level_ranges=config["fpn_range"],
        strides="declared",
        roi_hidden=config["roi_fc_dims"],
        pre_nms=(config["pre_nms_topk_train"], config["pre_nms_topk_test"]),
        post_nms=(config["post_nms_topk_train"], config["post_nms_topk_test"]),
        proposal_nms=config["iou_thresh"],
        match_iou=config["roi_matching_threshold"][0],
        samples=config["roi_samples_per_image"],
        positive_fraction=config["roi_positive_fraction"],
        detection_nms=config["roi_nms_threshold"],
        detections=config["roi_post_nms_num_detections"],
    )


def _check_detections(report: Report, golden: Golden, head: ProposalHead, case: str) -> None:
    features = _features(golden, case)
    found = head.detect(head(features))
    _check_regions(report, golden, case, ("detection_boxes", "detection_scores"), found, features.sizes)


def _check_second_stage(report: Report, golden: Golden, head: ProposalHead, outputs: DetectorOutputs) -> None:
    proposals = head.propose(outputs, training=False)
    boxes = boxes_01_to_canvas_px(proposals.boxes, outputs.sizes[proposals.image_index])
    assert head.roi_head is not None
    logits, deltas = head.roi_head(outputs.pyramid, outputs.strides, boxes, proposals.image_index)
    for name, got in (("class_outputs", logits), ("box_outputs", deltas)):
        want = golden.output("eval_raw", name)
        report.check(golden.name, f"eval_raw/{name}", got, want.reshape(-1, want.shape[-1])[: len(got)], TOLERANCE)


@torch.enable_grad()
def _check_training(report: Report, golden: Golden, head: ProposalHead) -> None:
    features = _features(golden, "eval")
    truth = _truth(golden.inputs("train", "gt_boxes"), CANVAS)
    outputs = head(features)
    samples = head.sample(outputs, truth)
    counts = samples.image_index.bincount().tolist()
    boxes = boxes_01_to_canvas_px(samples.boxes, features.sizes[samples.image_index])
    assert samples.class_logits is not None
    assert samples.deltas is not None
    assert samples.target_deltas is not None
    values = {"proposals": boxes, "class_outputs": samples.class_logits, "box_outputs": samples.deltas}
    values |= {"matched_classes": (samples.matched >= 0).long()}
    for name, got in values.items():
        want = golden.output("train", f"metrics/stage0_{name}")
        want = np.concatenate([rows[:count] for rows, count in zip(want, counts, strict=True)])
        report.check(golden.name, f"train/{name}", got, want, TOLERANCE)

    loss, (roi_class, roi_box) = detection_loss(outputs, samples, truth), roi_loss(samples)
    # published per place, also of those that nothing fills
    roi_box_of_places = roi_box * len(boxes) / golden.output("loss", "stage0_matched_classes").size
    total = loss.total - roi_box + roi_box_of_places
    got = {"reg_loss": loss.box, "stage0_roi_cls_loss": roi_class, "stage0_roi_reg_loss": roi_box_of_places}
    for name, value in (got | {"det_loss": total}).items():
        report.check(golden.name, f"loss/{name}", value, golden.output("loss", name), TOLERANCE)
    _check_heat_map(report, golden, loss.heat_map)
    whole = nn.ModuleDict({"proposal_head": head})
    parameters = {f"box_decoder/{path}": value for path, value in golden.parameters.items()}
    arrays = {f"loss/grad/box_decoder/{path}": golden.arrays[f"grad/{path}"] for path in golden.parameters}
    check_gradients(report, replace(golden, arrays=arrays), whole, parameters, "loss", total)


def _features(golden: Golden, case: str) -> ImageFeatures:
    fused = channels_first(golden.inputs(case, "image_embeddings"))
    return ImageFeatures(fused, fused, golden.inputs(case, "image_shape").long(), CANVAS)


def _truth(boxes: Tensor, canvas: tuple[int, int]) -> Regions:
    """Regions from float[B, G, 4] in pixels of the canvas; those without an area stay, and count for nothing."""
    index = torch.arange(len(boxes)).repeat_interleave(boxes.shape[1])
    return Regions(index, boxes_canvas_px_to_01(boxes.flatten(0, 1), torch.tensor([canvas] * len(index))))


def _cells(golden: Golden, prefix: str) -> Tensor:
    """float[B, N, ...]: the cells of all levels."""
    maps = [torch.from_numpy(golden.arrays[f"{prefix}/{level}"]).flatten(1, 2) for level in range(len(STRIDES))]
    return torch.cat(maps, dim=1)


def _load_part(ours: str, module: nn.Module, theirs: str, golden: Golden) -> None:
    converted = published.convert("box_decoder", {f"{theirs}/{path}": v for path, v in golden.parameters.items()})
    load_tensors(nn.ModuleDict({ours: module}), converted, golden.name)


def _per_image(counted: Tensor) -> Tensor:
    return counted.sum(1).clamp(min=1).float().mean()


def _check_heat_map(report: Report, golden: Golden, got: Tensor) -> None:
    wanted = golden.output("loss", "pos_loss") + golden.output("loss", "neg_loss")
    report.check(golden.name, "loss/pos_loss + neg_loss", got, wanted, TOLERANCE)


def _check_regions(
    report: Report, golden: Golden, case: str, names: tuple[str, str], found: Regions, sizes: Tensor
) -> None:
    """Boxes and scores, image by image; published boxes are clipped here and dropped where nothing is left of them."""
    pixels = boxes_01_to_canvas_px(found.boxes, sizes[found.image_index])
    assert found.scores is not None
    for image, size in enumerate(sizes):
        boxes, scores = (torch.from_numpy(golden.output(case, name)[image]) for name in names)
        boxes = torch.minimum(boxes.clamp(min=0), size.flip(0).repeat(2).to(boxes.dtype))
        real = (boxes[:, 2:] > boxes[:, :2]).all(1) & (scores > 0)
        own = found.image_index == image
        report.check(golden.name, f"{case}/{names[0]} {image}", pixels[own], boxes[real], TOLERANCE)
        report.check(golden.name, f"{case}/{names[1]} {image}", found.scores[own], scores[real], TOLERANCE)
