"""Parameters of the published (Flax) PixelLLM under our names and in PyTorch's layouts.

Published parameters come as {path: array} with "/" between the levels of the tree. Most names differ only in their
last part; what else differs stands in one table per component.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pixel_llm.core.roi_head import CELLS
from pixel_llm.weights.tensors import load_tensors

Parameters = Mapping[str, Any]

# last part of a path -> its name here, and whether the axes change: (.., in, out) to (out, in, ..)
_LEAVES = {
    "kernel": ("weight", True),
    "scale": ("weight", False),
    "embedding": ("weight", False),
    "kernel_left_lora": ("lora_A.default.weight", True),
    "kernel_right_lora": ("lora_B.default.weight", True),
    "rel_embedding": ("weight", True),
}


@dataclass(frozen=True)
class Component:
    """One top-level part of the published model.

    module: name of the part in our model.
    renames: (pattern, replacement) for paths whose last part is ours already, all applied in order.
    optional: beginnings of our names that a module may lack.
    """

    module: str
    renames: tuple[tuple[str, str], ...] = ()
    optional: tuple[str, ...] = ()


_EVA02 = (
    (r"^", "model/"),
    (r"/ln_post/", "/norm/"),
    (r"/attn/([qv])_bias$", r"/attn/\1_proj/bias"),
    (r"/mlp/w1/", "/mlp/fc1_g/"),
    (r"/mlp/w2/", "/mlp/fc1_x/"),
    (r"/mlp/ffn_ln/", "/mlp/norm/"),
    (r"/mlp/w3/", "/mlp/fc2/"),
)
_FEATURE_EXTRACTOR = (
    (r"^image_projection_mlp/layers.0/", "image_projection/"),
    (r"^prompt_embedding_projection_mlp/layers.0/", "prompt_projection/"),
    (r"^image_pe_projection_mlp/layers.0/", "position_projection/"),
    (r"^dense_output_mlp/layers.0/", "dense_output/"),
    (r"^output_tokens.weight$", "query_tokens"),
)
_LOCATION_HEAD = ((r"^LayerNorm_0/", "norm/"),)
_MASK_ADAPTER = (
    (r"^output_tokens.weight$", "tokens"),
    (r"^alpha_output.weight$", "gate"),
    (r"^textual_projection_mlp/", "text_projection/"),
    (r"^visual_projection_mlp/", "visual_projection/"),
    (r"_projection/LayerNorm_0/", "_projection/0/"),
    (r"_projection/layers.0/", "_projection/1/"),
)
_BOX_DECODER = (
    (r"^fpn/top_block/p6/", "pyramid/extra/0/"),
    (r"^fpn/top_block/p7/", "pyramid/extra/1/"),
    (r"/simfp_4\.1", "/simfp_4.2"),  # the level that is not resampled has one layer less
    (r"/simfp_4\.0", "/simfp_4.1"),
    (r"\.norm/", "_norm/"),
    (r"/simfp_(\d)\.0/", r"/simfp_\1/resample/"),
    (r"/simfp_(\d)\.1", r"/simfp_\1/reduce"),
    (r"/simfp_(\d)\.2", r"/simfp_\1/smooth"),
    (r"^fpn/simfp_3/", "pyramid/levels/0/"),
    (r"^fpn/simfp_4/", "pyramid/levels/1/"),
    (r"^fpn/simfp_5/", "pyramid/levels/2/"),
    (r"^proposal_generator/bbox_tower/", "centernet/tower/"),
    (r"^proposal_generator/agn_hm/", "centernet/heat_map/"),
    (r"^proposal_generator/bbox_pred/", "centernet/distances/"),
    (r"^proposal_generator/scales", "centernet/scales"),
    (r"^roi_heads/box_head.0/", "roi_head/"),
)
_GIT_DECODER = (
    (r"^embedding/layer_norm/", "embedding_norm/"),
    (r"^embedding/", ""),
    (r"^transformer/encoder/layer\.", "layers/"),
    (r"/attention/self/", "/"),
    (r"/attention/output/dense/", "/attention_output/"),
    (r"/attention/output/LayerNorm/", "/attention_norm/"),
    (r"/output/LayerNorm/", "/output_norm/"),
    (r"/dense/", "/"),
)
_T5 = (
    (r"^t5_module/", "model/"),
    (r"/token_embedder/", "/shared/"),
    (r"/decoder/logits_dense/", "/lm_head/"),
    (r"/relpos_bias/", "/block/0/layer/0/SelfAttention/relative_attention_bias/"),
    (r"/(encoder|decoder)_norm/", "/final_layer_norm/"),
    (r"/layers_(\d+)/", r"/block/\1/layer/"),
    (r"/pre_(self_)?attention_layer_norm/", "/0/layer_norm/"),
    (r"/pre_cross_attention_layer_norm/", "/1/layer_norm/"),
    (r"/(self_)?attention/", "/0/SelfAttention/"),
    (r"/encoder_decoder_attention/", "/1/EncDecAttention/"),
    (r"(/encoder/.*)/pre_mlp_layer_norm/", r"\1/1/layer_norm/"),
    (r"(/decoder/.*)/pre_mlp_layer_norm/", r"\1/2/layer_norm/"),
    (r"(/encoder/.*)/mlp/", r"\1/1/DenseReluDense/"),
    (r"(/decoder/.*)/mlp/", r"\1/2/DenseReluDense/"),
    (r"Attention/([qkvo])(uery|ey|alue|ut)/", r"Attention/\1/"),
)

COMPONENTS = {
    "git_backbone": Component("tuned_encoder", _EVA02),
    "sam_backbone": Component("sam_encoder"),
    "prompt_encoder": Component("prompt_encoder", optional=("mask_downscaling.",)),
    "prompt_adapter": Component("prompt_feature_extractor", _FEATURE_EXTRACTOR, optional=("dense_output.",)),
    "visual_project_layers": Component("language_model"),
    "point_predictor": Component("location_head", _LOCATION_HEAD),
    "mask_decoder": Component("mask_head.decoder"),
    "mask_adapter": Component("mask_head.adapter", _MASK_ADAPTER),
    "box_decoder": Component("proposal_head", _BOX_DECODER),
}
_TEXTUAL = {"t5": Component("language_model", _T5), "git": Component("language_model", _GIT_DECODER)}


def convert(name: str, parameters: Parameters) -> dict[str, Tensor]:
    """The parameters of one published component (`git_backbone`, ..., `textual`) as a state dict of our module."""
    if name == "prompt_adapter":
        parameters = _stack_output_layers(parameters)
    if name == "box_decoder":
        parameters = _fit_box_decoder(parameters)
    if name == "textual":
        parameters = _mark_adapted_layers(parameters)
    component = _component(name, parameters)
    return dict(_convert_one(component, path, value) for path, value in parameters.items())


def load(module: nn.Module, name: str, parameters: Parameters) -> None:
    """Load one published component into our module; ValueError names what does not match on either side."""
    component = _component(name, parameters)
    load_tensors(module, convert(name, parameters), f"published {name}", optional=component.optional)


def convert_model(parameters: Parameters) -> dict[str, Tensor]:
    """The parameters of a whole published model as a state dict of our model; ValueError for unknown components."""
    trees: dict[str, dict[str, Any]] = {}
    for path, value in parameters.items():
        name, _, rest = path.partition("/")
        trees.setdefault(name, {})[rest] = value
    converted: dict[str, Tensor] = {}
    for name, tree in trees.items():
        module = _component(name, tree).module
        converted |= {f"{module}.{key}": value for key, value in convert(name, tree).items()}
    return converted


def load_model(model: nn.Module, parameters: Parameters) -> None:
    """Load a whole published model, with or without each of its heads; ValueError names what does not match."""
    optional = [f"{part.module}.{name}" for part in COMPONENTS.values() for name in part.optional]
    heads = ["location_head.", "mask_head.", "proposal_head."]  # one for dense captioning places no words
    load_tensors(model, convert_model(parameters), "published model", optional, absent=heads)


def _component(name: str, parameters: Parameters) -> Component:
    if name == "textual":
        return _TEXTUAL["t5" if any(path.startswith("t5_module/") for path in parameters) else "git"]
    if name not in COMPONENTS:
        raise ValueError(f"no counterpart of the published component {name!r}")
    return COMPONENTS[name]


def _convert_one(component: Component, path: str, value: Any) -> tuple[str, Tensor]:
    parents, _, leaf = path.rpartition("/")
    leaf, change_axes = _LEAVES.get(leaf, (leaf, False))
    name = f"{parents}/{leaf}".lstrip("/")
    for pattern, replacement in component.renames:
        name = re.sub(pattern, replacement, name)
    tensor = torch.as_tensor(value)
    if change_axes:
        tensor = tensor.permute(-1, -2, *range(tensor.dim() - 2)).contiguous()
    return name.replace("/", "."), tensor


def _stack_output_layers(parameters: Parameters) -> dict[str, Any]:
    """One output layer per query token becomes one tensor for all; ours keeps the published (in, out) layout."""
    pattern = re.compile(r"output_hypernetworks_mlps\.(\d+)/layers\.0/(kernel|bias)")
    stacked = {path: value for path, value in parameters.items() if not pattern.fullmatch(path)}
    layers = [match for path in parameters if (match := pattern.fullmatch(path))]
    for leaf, name in (("kernel", "output_weight"), ("bias", "output_bias")):
        ordered = sorted((int(match[1]), match[0]) for match in layers if match[2] == leaf)
        stacked[name] = torch.stack([torch.as_tensor(parameters[path]) for _, path in ordered])
    return stacked


def _fit_box_decoder(parameters: Parameters) -> dict[str, Any]:
    """One tensor of the levels' scales; transposed and fully connected layers in PyTorch's order of axes."""
    scale = re.compile(r"proposal_generator/scales\.(\d+)/scale")
    fitted: dict[str, Any] = {}
    for path, value in parameters.items():
        tensor = torch.as_tensor(value)
        if re.fullmatch(r"fpn/simfp_\d\.0/kernel", path) and tensor.shape[:2] == (2, 2):
            tensor = tensor.flip(0, 1).transpose(2, 3)
        elif path.endswith("/fc1/kernel"):  # rows are (height, width, channel) of a box's 7x7 cells
            tensor = tensor.unflatten(0, (CELLS**2, -1)).transpose(0, 1).flatten(0, 1)
        if not scale.fullmatch(path):
            fitted[path] = tensor
    levels = sorted((int(match[1]), path) for path in parameters if (match := scale.fullmatch(path)))
    if levels:
        fitted["proposal_generator/scales"] = torch.cat([torch.as_tensor(parameters[path]) for _, path in levels])
    return fitted


def _mark_adapted_layers(parameters: Parameters) -> dict[str, Any]:
    """PEFT keeps the original weight of a layer with LoRA under `base_layer`."""
    return {
        path.removesuffix("/kernel") + "/base_layer/kernel" if f"{path}_left_lora" in parameters else path: value
        for path, value in parameters.items()
    }
