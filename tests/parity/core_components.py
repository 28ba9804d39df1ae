"""The core's components against the published ones: same parameters, same inputs, same outputs."""

import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixel_llm.coordinates import points_01_to_canvas_px
from pixel_llm.core.eva02 import EVA02
from pixel_llm.core.git_decoder import GitDecoder
from pixel_llm.core.location_head import LocationHead
from pixel_llm.core.mask_adapter import GatedMaskAdapter
from pixel_llm.core.mask_decoder import MaskDecoder
from pixel_llm.core.prompt_encoder import PromptEncoder
from pixel_llm.core.prompt_feature_extractor import PromptFeatureExtractor
from pixel_llm.core.sam_image_encoder import SamImageEncoder
from pixel_llm.core.t5 import T5
from pixel_llm.core.two_way_transformer import TwoWayTransformer
from pixel_llm.weights import published
from pixel_llm.weights.tensors import load_tensors
from tests.parity.golden import Golden, read_golden, regenerate_parameters
from tests.parity.report import Report

TOLERANCE = 2e-5


def check_eva02_vit(report: Report, path: Path) -> None:
    golden = read_golden(path)
    config = golden.config
    sizes = {"width": config["embed_dim"], "depth": config["depth"], "heads": config["num_heads"]}
    patch = config["patch_size"]
    options = {"patch": patch, "mlp_ratio": config["mlp_ratio"], "rescale_rope": False, "mlp_norm_eps": 1e-5}
    encoder = EVA02(**sizes, **options, pretrained_grid=config["pretrain_img_size"] // patch).eval()
    published.load(encoder, "git_backbone", golden.parameters)
    for case in golden.outputs:
        if case == "rope":
            _check_rotary_code(report, golden)
            continue
        features = encoder.encode(channels_first(golden.inputs(case, "x")))
        got = features.flatten(2).transpose(1, 2)
        report.check(golden.name, f"{case}/y, patches", got, golden.output(case, "y")[:, 1:], TOLERANCE)
    report.skip(golden.name, "not built: y of the class token, which the published model drops too")


def _check_rotary_code(report: Report, golden: Golden) -> None:
    from timm.layers import apply_rot_embed_cat

    values = golden.inputs("rope", "x")
    side = round(values.shape[1] ** 0.5)
    encoder = EVA02(width=values.shape[-1], depth=0, heads=1, rescale_rope=False)
    got = apply_rot_embed_cat(values, encoder.model.rope.get_embed(shape=[side, side]))
    report.check(golden.name, "rope/y", got, golden.output("rope", "y"), TOLERANCE)


def check_sam_vit(report: Report, path: Path) -> None:
    golden = read_golden(path)
    config = golden.config
    depth = config["depth"]
    encoder = SamImageEncoder(
        width=config["embed_dim"],
        depth=depth,
        heads=config["num_heads"],
        global_blocks=sorted(set(range(depth)) - set(config["window_block_indexes"])),
        image_size=config["img_size"],
        patch=config["patch_size"],
        window=config["window_size"],
        mlp_ratio=config.get("mlp_ratio", 4.0),
        output_channels=config["out_chans"],
    ).eval()
    published.load(encoder, "sam_backbone", golden.parameters)
    for case in golden.outputs:
        features = encoder.encode(channels_first(golden.inputs(case, "x")))
        report.check(golden.name, f"{case}/y", channels_last(features), golden.output(case, "y"), TOLERANCE)


def check_prompt_encoder(report: Report, path: Path) -> None:
    golden = read_golden(path)
    encoder = PromptEncoder(width=golden.config["embed_dim"])
    published.load(encoder, "prompt_encoder", golden.parameters)
    for case, outputs in golden.outputs.items():
        for output in outputs:
            wanted = golden.output(case, output)
            if case == "masks":
                report.skip(golden.name, f"not built: {case}/{output}, no configuration asks with a mask")
                continue
            if case == "dense_pe":
                got = encoder.dense_pe(wanted.shape[:2]).permute(1, 2, 0)
            elif output == "dense":
                got = encoder.no_mask.expand(wanted.shape)
            else:
                got = _prompt_tokens(encoder, golden, case)
            report.check(golden.name, f"{case}/{output}", got, wanted, TOLERANCE)


def _prompt_tokens(encoder: PromptEncoder, golden: Golden, case: str) -> Tensor:
    """The tokens of a case's points, then of its boxes; without boxes a padding point closes the points."""
    given = re.search(r"\((\d+), ?(\d+)\)", golden.calls[case])
    height, width = given.groups() if given else golden.config["input_image_size"]
    canvas, tokens = (int(height), int(width)), []
    if case != "embed_boxes":
        points, labels = golden.inputs(case, "points"), golden.inputs(case, "labels").long()
        if "boxes" not in case:
            points, labels = nn.functional.pad(points, (0, 0, 0, 1)), nn.functional.pad(labels, (0, 1), value=-1)
        tokens.append(encoder.embed_points(points, labels, canvas))
    if "boxes" in case:
        tokens.append(encoder.embed_boxes(golden.inputs(case, "boxes"), canvas))
    return torch.cat(tokens, dim=1)


def check_two_way_transformer(report: Report, path: Path) -> None:
    golden = read_golden(path)
    config = golden.config
    sizes = {"depth": config["depth"], "heads": config["num_heads"], "mlp": config["mlp_dim"]}
    transformer = TwoWayTransformer(width=config["embedding_dim"], **sizes)
    parameters = {f"transformer/{path}": value for path, value in golden.parameters.items()}
    converted = published.convert("mask_decoder", parameters)
    load_tensors(nn.ModuleDict({"transformer": transformer}), converted, golden.name)
    for case in golden.outputs:
        names = ("image_embedding", "image_pe", "point_embedding")
        image, position, tokens = (golden.inputs(case, name) for name in names)
        rows = [
            transformer(image[i : i + 1].flatten(1, 2), position[i].flatten(0, 1), tokens[i : i + 1], first(1))
            for i in range(len(image))  # position codes differ from image to image here
        ]
        for output, got in zip(("queries", "keys"), zip(*rows, strict=True), strict=True):
            wanted = golden.output(case, output)
            report.check(golden.name, f"{case}/{output}", torch.cat(got), wanted, TOLERANCE)


def check_prompt_adapter(report: Report, path: Path) -> None:
    golden = read_golden(path)
    config, parameters = golden.config, golden.parameters
    extractor = PromptFeatureExtractor(
        image_channels=parameters["image_projection_mlp/layers.0/kernel"].shape[0],
        prompt_width=config["input_embedding_dim"],
        width=config["transformer_dim"],
        depth=config["depth"],
        query_tokens=config["num_outputs"],
        output_width=config["output_dim"],
        dense_output=True,
    )
    published.load(extractor, "prompt_adapter", parameters)
    for case in golden.outputs:
        image, position, sparse, dense, index = _ragged_inputs(golden, case)
        got = extractor(image, position, sparse, dense, index)
        wanted = golden.output(case, "sparse_out")
        report.check(golden.name, f"{case}/sparse_out", got.view(wanted.shape), wanted, TOLERANCE)
        got = _dense_output(extractor, image, position, sparse, dense, index)
        wanted = golden.output(case, "dense_out")
        report.check(golden.name, f"{case}/dense_out", got.view(wanted.shape), wanted, TOLERANCE)


def _dense_output(extractor: PromptFeatureExtractor, *inputs: Tensor) -> Tensor:
    """The published output per image cell, which nothing reads; the extractor only keeps its layer."""
    cells: list[Tensor] = []
    hook = extractor.transformer.register_forward_hook(lambda _module, _inputs, outputs: cells.append(outputs[1]))
    extractor(*inputs)
    hook.remove()
    return extractor.dense_output(cells[0])


def check_visual_project_layers(report: Report, path: Path) -> None:
    golden = read_golden(path)
    visual_width, width = golden.parameters["visual_projection.0/kernel"].shape
    sizes = {"layers": 1, "heads": 1, "head_width": 2, "feed_forward": 2, "vocabulary_size": 2}
    language_model = T5(width=width, visual_width=visual_width, **sizes)
    projection = nn.ModuleDict({"visual_projection": language_model.visual_projection})
    published.load(projection, "visual_project_layers", golden.parameters)
    for case in golden.outputs:
        got = language_model.visual_projection(golden.inputs(case, "x"))
        report.check(golden.name, f"{case}/y", got, golden.output(case, "y"), TOLERANCE)


def check_text_decoder_git(report: Report, path: Path) -> None:
    golden = read_golden(path)
    config, parameters = golden.config, golden.parameters
    decoder = GitDecoder(
        visual_width=parameters["visual_projection.0/kernel"].shape[0],
        width=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_heads"],
        feed_forward=parameters["transformer/encoder/layer.0/intermediate/dense/bias"].shape[0],
        vocabulary_size=config["vocab_size"],
        positions=config["max_caption_length"],
    ).eval()
    published.load(decoder, "textual", parameters)
    for case, outputs in golden.outputs.items():
        if "logits" not in outputs:
            report.skip(golden.name, f"not built: {case}/feat, an option that no configuration takes")
            continue
        context = None if case == "noctx" else golden.inputs(case, "context_tokens").long()
        prefix = decoder.encode_prefix(golden.inputs(case, "visual_features"), context)
        hidden = decoder.hidden_states(prefix, golden.inputs(case, "text_tokens").long())
        report.check(golden.name, f"{case}/feat", hidden, golden.output(case, "feat"), TOLERANCE)
        logits = decoder.logits(hidden)
        report.check(golden.name, f"{case}/logits", logits, golden.output(case, "logits"), TOLERANCE)


def check_point_predictor(report: Report, path: Path) -> None:
    golden = read_golden(path)
    config, parameters = golden.config, golden.parameters
    points = golden.output("a", "point_coords").shape[-2]
    layers = [path for path in parameters if path.endswith("/kernel")]
    head = LocationHead(
        width=parameters["mlp/layers.0/kernel"].shape[0],
        hidden=config["hidden_dim"],
        depth=len(layers),
        points=points,
        extra_channels=parameters[max(layers)].shape[1] // points - 2,
    )
    if not config.get("pre_norm"):  # the published defaults, which every configuration overrides
        head.norm = nn.Identity()
    if config.get("mlp_activation", "relu") == "relu":
        head.mlp.activation = F.relu
    published.load(head, "point_predictor", parameters)
    got = head(golden.inputs("a", "text_feat"))
    report.check(golden.name, "a/point_coords", got, golden.output("a", "point_coords"), TOLERANCE)
    report.skip(golden.name, "not built: a/logits, channels that no loss and no prediction reads")
    absolute = points_01_to_canvas_px(golden.inputs("abs", "point_coords"), golden.inputs("abs", "image_shape"))
    report.check(golden.name, "abs/y", absolute, golden.output("abs", "y"), TOLERANCE)


def check_mask_decoder(report: Report, path: Path) -> None:
    golden = read_golden(path)
    config = golden.config
    decoder = MaskDecoder(
        width=config["transformer_dim"],
        multimask_outputs=config.get("num_multimask_outputs", 3),
        iou_depth=config.get("iou_head_depth", 3),
        iou_hidden=config.get("iou_head_hidden_dim", 256),
    )
    parameters = golden.parameters or regenerate_parameters(golden, golden.name)
    published.load(decoder, "mask_decoder", parameters)
    for case in golden.outputs:
        outputs = decoder(*_ragged_inputs(golden, case), multimask="multimaskTrue" in case)
        for name, got in zip(("masks", "iou"), outputs, strict=True):
            wanted = golden.output(case, name)
            report.check(golden.name, f"{case}/{name}", got.view(wanted.shape), wanted, TOLERANCE)


def check_mask_adapter(report: Report, path: Path) -> None:
    golden = read_golden(path)
    config = golden.config
    names = ("sparse", "visual", "textual")
    sparse, visual, textual = (golden.inputs("a", name).flatten(0, 1) for name in names)
    adapter = GatedMaskAdapter(visual.shape[-1], textual.shape[-1], config["transformer_dim"], config["depth"])
    parameters = dict(golden.parameters)
    if not config.get("input_projection", True):  # every configuration has both projections and the gate
        adapter.visual_projection = adapter.text_projection = nn.Identity()  # type: ignore[assignment]
    if not config.get("gating", True):
        parameters["alpha_output.weight"] = np.full(adapter.gate.shape, np.inf)  # an open gate
    published.load(adapter, "mask_adapter", parameters)
    got, want = sparse + adapter(visual, textual), golden.output("a", "y")
    report.check(golden.name, "a/y", got.view(want.shape), want, TOLERANCE)


def _ragged_inputs(golden: Golden, case: str) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Image features, position codes, sparse and dense prompts and the image of each prompt, in our layouts."""
    names = ("image_embeddings", "image_pe", "sparse", "dense")
    image, position, sparse, dense = (golden.inputs(case, name) for name in names)
    if image.dim() == 3:
        image, sparse = image[None], sparse[None]
    index = torch.arange(len(image)).repeat_interleave(sparse.shape[1])
    return channels_first(image), position.permute(2, 0, 1), sparse.flatten(0, 1), dense, index


def channels_first(images: Tensor) -> Tensor:
    return images.float().permute(0, 3, 1, 2)


def channels_last(images: Tensor) -> Tensor:
    return images.permute(0, 2, 3, 1)


def first(prompts: int) -> Tensor:
    """int[prompts]: all of them belong to the first image."""
    return torch.zeros(prompts, dtype=torch.long)
