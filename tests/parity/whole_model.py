"""Whole models against the published ones: training outputs, losses, gradients, inference."""

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pixel_llm.coordinates import boxes_01_to_canvas_px, points_01_to_canvas_px
from pixel_llm.core.build import pixel_llm
from pixel_llm.core.decoding import DecodingRule
from pixel_llm.core.eva02 import EVA02
from pixel_llm.core.git_decoder import GitDecoder
from pixel_llm.core.language_model import LanguageModel
from pixel_llm.core.mask_adapter import GatedMaskAdapter
from pixel_llm.core.mask_decoder import MaskDecoder
from pixel_llm.core.mask_head import MaskHead
from pixel_llm.core.pixel_llm import PixelLLM
from pixel_llm.core.proposal_head import ProposalHead
from pixel_llm.core.sam_image_encoder import SamImageEncoder
from pixel_llm.core.t5 import T5
from pixel_llm.losses import (
    location_distance,
    mask_loss,
    masked_mean,
    smoothed_cross_entropy,
    supervised_tokens,
    trace_caption_loss,
)
from pixel_llm.structures import Generation, ImageFeatures, Localization, Prompts
from pixel_llm.weights import published
from tests.parity.golden import Golden, read_golden
from tests.parity.language import UniformT5, t5_sizes
from tests.parity.report import Report

TOLERANCE = 1e-4
ALL = slice(None)

# Gradients that are zero but for rounding: softmax does not see a bias on the keys, and where the coarsest map of the
# detector is one cell (images of 128 pixels), its groups of two channels are normalised to -1 and 1 whatever they are.
_ROUNDING = re.compile(r"/(k_proj|key)/bias$|/top_block/p7/")


def check_model(report: Report, path: Path) -> None:
    golden, core, parameters = load_golden_model(report, path)
    check_training(report, golden, core, parameters, "train")
    for case in golden.outputs:
        if case.startswith("infer"):
            _check_inference(report, golden, core, case)


def load_golden_model(report: Report, path: Path) -> tuple[Golden, PixelLLM, dict[str, np.ndarray]]:
    """A golden file, our model of its sizes with its parameters, all of which want gradients, and the parameters."""
    golden = read_golden(path)
    parameters = model_parameters(path.parent, golden.config["param_paths"])
    core = build_model(golden.config["model"], parameters).eval()
    core.requires_grad_(True)  # the golden gradients cover the frozen parts too
    for module in core.modules():
        if hasattr(module, "frozen"):
            module.frozen = False
    published.load_model(core, parameters)
    if isinstance(core.language_model, UniformT5):
        report.skip(golden.name, "not built: states without a target as published, made here for the mask adapter")
    return golden, core, parameters


def model_parameters(folder: Path, paths: list[str]) -> dict[str, np.ndarray]:
    """The parameters of one model out of the files that all models share."""
    found: dict[str, np.ndarray] = {}
    for file in sorted(folder.glob("model_params_*.npz")):
        found |= {
            path: value for path, value in read_golden(file).parameters.items() if path in set(paths) - set(found)
        }
    return found


def build_model(config: dict[str, Any], parameters: dict[str, np.ndarray]) -> PixelLLM:
    """Our model with the sizes of a golden configuration and the rules of the published code."""
    eva, sam, adapter = (config[f"{name}_args"] for name in ("git_backbone", "sam_backbone", "prompt_adapter"))
    head = {"hidden_dim": 512, "depth": 4} | config.get("point_predictor_args", {})
    tuned = EVA02(
        width=eva["embed_dim"], depth=eva["depth"], heads=eva["num_heads"], patch=eva["patch_size"],
        mlp_ratio=eva["mlp_ratio"], pretrained_grid=eva["pretrain_img_size"] // eva["patch_size"],
        rescale_rope=False, mlp_norm_eps=1e-5,
    )  # fmt: skip
    frozen = SamImageEncoder(
        width=sam["embed_dim"], depth=sam["depth"], heads=sam["num_heads"], image_size=sam["img_size"],
        global_blocks=sorted(set(range(sam["depth"])) - set(sam["window_block_indexes"])),
        window=sam["window_size"], output_channels=sam["out_chans"],
    )  # fmt: skip
    core = pixel_llm(
        frozen,
        tuned,
        _language_model(config, parameters),
        extractor_width=adapter["transformer_dim"],
        extractor_depth=adapter["depth"],
        query_tokens=adapter["num_outputs"],
        dense_output=True,
        prompt_padding_tokens=3,
        location_hidden=head["hidden_dim"],
        location_depth=head["depth"],
        location_extra_channels=2,
        location_step="input",
        box_step="last_word",
        proposal_head=None if config.get("box_decoder_name", "none") == "none" else partial(_proposal_head, config),
    )
    if config.get("mask_decoder_name", "none") != "none":
        decoder, width = config["mask_decoder_args"], config["mask_adapter_args"]["transformer_dim"]
        lm = core.language_model
        core.mask_head = MaskHead(
            MaskDecoder(width=decoder["transformer_dim"], iou_hidden=decoder["iou_head_hidden_dim"]),
            GatedMaskAdapter(lm.adapter_width, lm.width, width),
        )
    return core


def _proposal_head(config: dict[str, Any], channels: int) -> ProposalHead:
    sizes = config["box_decoder_args"]
    limits = [(sizes[f"{step}_nms_topk_train"], sizes[f"{step}_nms_topk_test"]) for step in ("pre", "post")]
    return ProposalHead(
        channels, width=sizes["fpn_args"]["out_channels"], upsampled_width=sizes["fpn_args"]["in_dim"] // 2,
        level_ranges=sizes["fpn_range"], strides="declared", roi_hidden=tuple(sizes["roi_fc_dims"]),
        pre_nms=limits[0], post_nms=limits[1], proposal_nms=sizes["iou_thresh"],
        match_iou=sizes["roi_matching_threshold"][0], samples=sizes["roi_samples_per_image"],
        positive_fraction=sizes["roi_positive_fraction"], detection_nms=sizes["roi_nms_threshold"],
        detections=sizes["roi_post_nms_num_detections"],
    )  # fmt: skip


def _language_model(config: dict[str, Any], parameters: dict[str, np.ndarray]) -> LanguageModel:
    settings, visual = config["text_decoder_args"], config["prompt_adapter_args"]["output_dim"]
    if config["text_decoder_name"] == "git":
        layers = settings["num_hidden_layers"]
        hidden = parameters["textual/transformer/encoder/layer.0/intermediate/dense/bias"].shape[0]
        return GitDecoder(
            visual_width=visual, width=settings["hidden_size"], layers=layers, heads=settings["num_heads"],
            feed_forward=hidden, vocabulary_size=config["vocab_size"], positions=settings["max_caption_length"],
            dropout=0.0, bos_id=config["begin_token_id"], eos_id=config["end_token_id"],
        )  # fmt: skip
    rank = settings["encoder_lora_rank"]
    alpha = rank * settings["encoder_lora_scale"]
    sizes = t5_sizes(parameters, "textual/t5_module/")
    kind = UniformT5 if "mask_adapter_args" in config else T5
    return kind(**sizes, visual_width=visual, lora_rank=rank, lora_alpha=alpha, lora_sites="all_attention")


def images_and_sizes(golden: Golden, case: str) -> tuple[Tensor, Tensor]:
    images = golden.inputs(case, "inputs").permute(0, 3, 1, 2)
    real = golden.inputs(case, "padding_mask") > 0
    return images, torch.stack([real.any(2).sum(1), real.any(1).sum(1)], dim=1)


def _inputs(golden: Golden, case: str, context: bool) -> tuple[Tensor, Tensor, Prompts]:
    images, sizes = images_and_sizes(golden, case)
    boxes = golden.inputs(case, "label/prompt_boxes")
    index = torch.arange(len(images)).repeat_interleave(boxes.shape[1])
    boxes = boxes.flatten(0, 1) / sizes[index].flip(-1).repeat(1, 2)
    tokens = golden.inputs(case, "label/context_tokens").long().flatten(0, 1) if context else None
    return images, sizes, Prompts(index, boxes, tokens)


@torch.enable_grad()
def check_training(
    report: Report, golden: Golden, core: PixelLLM, parameters: dict[str, np.ndarray], case: str
) -> None:
    """A step of captions with traces, or of queries, perhaps with masks: outputs, losses and gradients."""
    images, sizes, prompts = _inputs(golden, case, context=True)
    features = core.encode_images(images, sizes)
    tokens = golden.inputs(case, "label/text_tokens").long().flatten(0, 1)
    check_visual_features(report, golden, core, case, core.extract(features, prompts))
    outputs = core(features, prompts, tokens)
    scale = sizes[prompts.image_index].flip(-1)
    check_points(report, golden, case, outputs.locations, sizes[prompts.image_index])

    labelled = golden.inputs(case, "label/labels").flatten() > 0
    truth = _true_points(golden, case) / scale[:, None, None]
    valid = torch.from_numpy(golden.output(case, "point_valid_mask")).flatten(0, 1) > 0
    lm = core.language_model
    captions = golden.inputs(case, "label/cap_loss_valid_mask").float().mean()  # a query has no loss of words
    cross_entropy = smoothed_cross_entropy(outputs.logits[:, :-1], tokens[:, 1:], 0.1)
    supervised = supervised_tokens(tokens[:, 1:], lm.pad_id, lm.eos_id) & labelled[:, None]
    loss = trace_caption_loss(
        captions * cross_entropy,
        supervised,
        location_distance(outputs.locations, truth, scale),
        valid & labelled[:, None] & (truth != 0).flatten(2).any(-1),
        golden.config["model"]["point_loss_weight"],
        "separate",
    )
    total = loss.total
    words = masked_mean(cross_entropy, supervised)
    for name, got in (("text_loss", words), ("text_loss_scaled", loss.words), ("point_loss", loss.locations)):
        check_metric(report, golden, case, name, got)
    if core.mask_head is not None and f"{case}/out/metrics/mask_loss" in golden.arrays:
        total = total + _check_mask_loss(report, golden, core, case, features, prompts, tokens)
    check_metric(report, golden, case, "total_loss", total)
    check_gradients(report, golden, core, parameters, case, total)


def check_visual_features(
    report: Report, golden: Golden, core: PixelLLM, case: str, visual: Tensor, rows: Tensor | slice = ALL
) -> None:
    """visual: float[P, Q, D] before the projection to the language model.  rows: the P of all prompts."""
    if isinstance(core.language_model, T5):
        visual = core.language_model.visual_projection(visual)
    want = torch.from_numpy(golden.output(case, "visual_features")).flatten(0, 1)[rows]
    report.check(golden.name, f"{case}/visual_features", visual, want, TOLERANCE)


def check_metric(report: Report, golden: Golden, case: str, name: str, got: Tensor) -> None:
    report.check(golden.name, f"{case}/{name}", got, golden.output(case, f"metrics/{name}"), TOLERANCE)


def _true_points(golden: Golden, case: str) -> Tensor:
    """float[P, T, 2, 2] in pixels of the canvas: of the traces, or in a case without any of the boxes."""
    points = golden.inputs(case, "label/points").flatten(0, 1)
    if points.any():
        return points
    return golden.inputs(case, "label/boxes").flatten(0, 1).view(-1, 1, 2, 2).expand_as(points)


def _check_mask_loss(
    report: Report,
    golden: Golden,
    core: PixelLLM,
    case: str,
    features: ImageFeatures,
    prompts: Prompts,
    tokens: Tensor,
) -> Tensor:
    """Boxes, masks and their loss; returns the weighted loss."""
    masks, iou = _check_found(report, golden, core, case, features, prompts, tokens)
    truth = golden.inputs(case, "label/masks")[..., 0].flatten(0, 1) > 0
    real = golden.inputs(case, "padding_mask")[prompts.image_index] > 0
    labelled = golden.inputs(case, "label/labels").flatten() > 0
    loss = mask_loss(masks, iou, truth, labelled, real)
    values = {"mask_loss": loss.total, "mask_focal_loss": 20 * loss.focal, "mask_dice_loss": loss.dice}
    for name, got in (values | {"mask_iou_pred_loss": loss.iou}).items():
        check_metric(report, golden, case, name, got)
    return golden.config["model"]["mask_loss_weight"] * loss.total


def _check_found(
    report: Report,
    golden: Golden,
    core: PixelLLM,
    case: str,
    features: ImageFeatures,
    prompts: Prompts,
    queries: Tensor,
) -> tuple[Tensor, Tensor]:
    """Boxes of the queries that have one, and with a mask head their masks and expected IoU, which are returned."""
    found = core.locate(features, prompts, queries)
    sizes = features.sizes[prompts.image_index]
    has_box = check_boxes(report, golden, case, "detection_boxes", found, sizes)
    if core.mask_head is None:
        return found.boxes.new_empty(0), found.boxes.new_empty(0)
    pixels = boxes_01_to_canvas_px(found.boxes, sizes)
    return check_masks(report, golden, core, case, features, prompts, found, pixels, has_box)


def check_boxes(
    report: Report, golden: Golden, case: str, name: str, found: Localization, sizes: Tensor
) -> Tensor:
    """Boxes of the queries that have one: bool[P], which is returned.  sizes: int[P, 2] of the images."""
    has_box = torch.from_numpy(golden.output(case, "point_valid_mask")).flatten(0, 1).bool().any(1)
    want = torch.from_numpy(golden.output(case, name)).flatten(0, 1)
    pixels = boxes_01_to_canvas_px(found.boxes, sizes)
    report.check(golden.name, f"{case}/{name}", pixels[has_box], want[has_box], TOLERANCE)
    return has_box


def check_masks(
    report: Report,
    golden: Golden,
    core: PixelLLM,
    case: str,
    features: ImageFeatures,
    prompts: Prompts,
    found: Localization,
    pixels: Tensor,
    rows: Tensor | slice = ALL,
) -> tuple[Tensor, Tensor]:
    """Masks and expected IoU of all prompts, compared at some rows; pixels: float[P, 4], what the decoder is given."""
    assert core.mask_head is not None
    read = (found.visual, found.hidden)  # padding too, as published
    masks, iou = core.mask_head(
        features.sam, core.prompt_encoder, pixels, features.canvas, prompts.image_index, *read
    )
    for name, got in (("detection_masks", masks), ("iou_predictions", iou)):
        want = torch.from_numpy(golden.output(case, name)).view(got.shape)
        report.check(golden.name, f"{case}/{name}", got[rows], want[rows], TOLERANCE)
    return masks, iou


def check_gradients(
    report: Report, golden: Golden, core: PixelLLM, parameters: dict[str, np.ndarray], case: str, total: Tensor
) -> None:
    """Sum, norm and cosine-weighted sum per published parameter; where a sum cancels, the norm is its scale."""
    core.zero_grad()
    total.backward()
    paths = list(parameters)
    places = {  # every element of our parameters learns which published parameter it is, and where in it
        path: torch.arange(parameters[path].size).view(parameters[path].shape) + (number << 40)
        for number, path in enumerate(paths)
    }
    sums = torch.zeros(len(paths), 3, dtype=torch.float64)
    own = dict(core.named_parameters())
    for name, place in published.convert_model(places).items():
        if name in own and own[name].grad is not None:
            gradient = own[name].grad.double().flatten()
            number, index = (place >> 40).flatten(), (place & ((1 << 40) - 1)).flatten()
            sums[:, 0].index_add_(0, number, gradient)
            sums[:, 1].index_add_(0, number, gradient**2)
            sums[:, 2].index_add_(0, number, gradient * index.double().cos())
    sums[:, 1] = sums[:, 1].sqrt()
    stored = ((number, golden.arrays.get(f"{case}/grad/{path}")) for number, path in enumerate(paths))
    wanted = {number: want for number, want in stored if want is not None}
    largest = max(float(want[1]) for want in wanted.values())
    worst, vanishing = np.zeros(3), 0.0
    for number, want in wanted.items():
        if _ROUNDING.search(paths[number]):
            vanishing = max(vanishing, float(sums[number, 1]) / largest)
        else:
            scale = np.maximum(np.abs(want), max(float(want[1]), 1e-6))
            worst = np.maximum(worst, np.abs(sums[number].numpy() - want) / scale)
    for name, value in zip(("sum", "norm", "cosine sum"), worst, strict=True):
        report.check(golden.name, f"{case}/grad, {name}, worst of {len(wanted)}", 1 + value, 1.0, TOLERANCE)
    report.check(golden.name, f"{case}/grad that is rounding alone, of the largest", 1 + vanishing, 1.0, TOLERANCE)


def check_points(
    report: Report, golden: Golden, case: str, locations: Tensor, sizes: Tensor, rows: Tensor | slice = ALL
) -> None:
    """Points of some prompts in pixels of the canvas, at the tokens that have one; the others hold what they like."""
    want = golden.output(case, "point_coords")
    valid = torch.from_numpy(golden.output(case, "point_valid_mask")).flatten(0, 1)[rows] > 0
    points = points_01_to_canvas_px(locations, sizes)
    padded = points.new_zeros(len(points), want.shape[2], *points.shape[2:])
    padded[:, : points.shape[1]] = points
    want = torch.from_numpy(want).flatten(0, 1)[rows]
    report.check(golden.name, f"{case}/point_coords of words", padded[valid], want[valid], TOLERANCE)


def _check_inference(report: Report, golden: Golden, core: PixelLLM, case: str) -> None:
    images, sizes, prompts = _inputs(golden, "train", context="noctx" not in case)
    features = core.encode_images(images, sizes)
    if case == "infer_gttext":
        tokens = golden.inputs("train", "label/text_tokens").long().flatten(0, 1)
        locations = core(features, prompts, tokens).locations
    else:
        tokens, generation = check_generation(report, golden, core, case, features, prompts)
        locations = generation.locations
    check_points(report, golden, case, locations, sizes[prompts.image_index])
    if golden.config["model"]["point_output_ignore"] == "^end-1":  # boxes of queries, not of captions
        _check_found(report, golden, core, case, features, prompts, tokens)


def check_generation(
    report: Report,
    golden: Golden,
    core: PixelLLM,
    case: str,
    features: ImageFeatures,
    prompts: Prompts,
    rows: Tensor | slice = ALL,
) -> tuple[Tensor, Generation]:
    """Captions of P of all prompts (`rows`): tokens int[P, T], with T the longest length allowed, and all of it."""
    want = torch.from_numpy(golden.output(case, "text_tokens")).long().flatten(0, 1)[rows]
    beams = golden.output(case, "beam_text_tokens").shape[2]
    per_beam = golden.config["model"]["decode_per_node_beam_size"]
    rule = DecodingRule(want.shape[1], beams, candidates_per_beam=per_beam, forbid_repeat=True)
    generation = core.generate(features, prompts, rule)
    got = torch.full_like(want, core.language_model.pad_id)
    got[:, : generation.tokens.shape[1]] = generation.tokens
    ended = (want == core.language_model.eos_id).long()
    ended[:, 0] = 0
    behind = ended.cumsum(1) - ended > 0
    report.check(golden.name, f"{case}/text_tokens", got, want.masked_fill(behind, core.language_model.pad_id), 0.0)
    scores = golden.output(case, "log_probs").reshape(-1)[rows]
    report.check(golden.name, f"{case}/log_probs", generation.scores, scores, TOLERANCE)
    return got, generation


def check_real_param_shapes(report: Report, path: Path) -> None:
    """Every parameter of the full-size published models that belongs to a component of ours."""
    from pixel_llm.core.build import eva02_large, sam_image_encoder, t5

    shapes = json.loads(path.read_text())
    with torch.device("meta"):
        for kind in ("t5", "git"):
            lm = t5("xl", lora_sites="all_attention") if kind == "t5" else GitDecoder(visual_width=1024)
            core = pixel_llm(
                sam_image_encoder("vit_h"), eva02_large(), lm, extractor_depth=6, dense_output=True,
                location_extra_channels=2, prompt_padding_tokens=3, mask_adapter="gated",
                proposal_head=partial(ProposalHead, roi_hidden=(1024, 1024)),
            )  # fmt: skip
            own = shapes["shapes_joint_bert"] | (shapes["shapes_joint_t5_textual_and_proj"] if kind == "t5" else {})
            if kind == "t5":
                own = {p: s for p, s in own.items() if not p.startswith("textual/") or "t5_module" in p}
            _check_shapes(report, f"{path.stem}, {kind}", core, own)


def _check_shapes(report: Report, name: str, core: PixelLLM, shapes: dict[str, list[int]]) -> None:
    try:
        published.load_model(core, {path: torch.empty(shape) for path, shape in shapes.items()})
    except ValueError as error:
        report.fail(name, "", str(error))
        return
    ours = sum(p.numel() for p in core.parameters())
    ours += core.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix.numel()
    want = sum(int(np.prod(shape)) for shape in shapes.values())
    report.check(name, f"number of parameters, in {len(shapes)} shapes", ours, want, 0.0)
