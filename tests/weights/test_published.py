"""Published parameters under our names: full-size names and shapes, values, and what errors say."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from pixel_llm.core.eva02 import EVA02
from pixel_llm.core.git_decoder import GitDecoder
from pixel_llm.core.location_head import LocationHead
from pixel_llm.core.mask_adapter import GatedMaskAdapter
from pixel_llm.core.mask_decoder import MaskDecoder
from pixel_llm.core.prompt_encoder import PromptEncoder
from pixel_llm.core.prompt_feature_extractor import PromptFeatureExtractor
from pixel_llm.core.sam_image_encoder import SamImageEncoder
from pixel_llm.core.t5 import T5
from pixel_llm.weights import published


def t5_xl():
    sizes = {"width": 2048, "layers": 24, "heads": 32, "head_width": 64, "feed_forward": 5120}
    return T5(**sizes, vocabulary_size=32128, visual_width=1024, lora_sites="all_attention")


def feature_extractor():
    widths = {"image_channels": 1280, "prompt_width": 256, "width": 512, "output_width": 1024}
    return PromptFeatureExtractor(**widths, depth=6, dense_output=True)


FULL_SIZE = {
    "git_backbone": lambda: EVA02(width=1024, depth=24, heads=16),
    "sam_backbone": lambda: SamImageEncoder(width=1280, depth=32, heads=16, global_blocks=(7, 15, 23, 31)),
    "prompt_encoder": PromptEncoder,
    "prompt_adapter": feature_extractor,
    "mask_decoder": MaskDecoder,
    "mask_adapter": lambda: GatedMaskAdapter(1024, 768),
    "point_predictor": lambda: LocationHead(width=768, extra_channels=2),
    "textual": lambda: GitDecoder(visual_width=1024),
}


def shapes_of(tree, shared, listing="shapes_joint_bert"):
    """Parameters of one component of the published full-size model, as tensors without memory."""
    content = json.loads((shared / "golden/published/real_param_shapes.json").read_text())[listing]
    return {
        path.removeprefix(f"{tree}/"): torch.empty(shape, device="meta")
        for path, shape in content.items()
        if path.startswith(f"{tree}/")
    }


@pytest.mark.parametrize("component", FULL_SIZE)
def test_full_size_components_fit_name_by_name(component, shared):
    with torch.device("meta"):
        module = FULL_SIZE[component]()
    published.load(module, component, shapes_of(component, shared))


def test_full_size_t5_with_its_adapters_fits_name_by_name(shared):
    listing = "shapes_joint_t5_textual_and_proj"
    with torch.device("meta"):
        model = t5_xl()
    tensors = published.convert("textual", shapes_of("textual", shared, listing))
    tensors |= published.convert("visual_project_layers", shapes_of("visual_project_layers", shared, listing))
    wanted = dict(model.named_parameters())
    assert set(tensors) == set(wanted)
    assert all(tensors[name].shape == wanted[name].shape for name in wanted)


def test_adapted_t5_projection_is_the_published_sum(shared):
    """W + 2 A B, in the published layout, is what the adapted layer multiplies with."""
    with np.load(shared / "golden/published/model_params_t5.npz") as golden:
        names = [name for name in golden.files if name.startswith("params/textual/")]
        parameters = {name.removeprefix("params/textual/"): golden[name] for name in names}
    site = "t5_module/decoder/layers_1/encoder_decoder_attention/value/kernel"
    width, rank = parameters[f"{site}_left_lora"].shape
    sizes = {"width": width, "layers": 2, "heads": 4, "head_width": 8, "feed_forward": 48, "vocabulary_size": 64}
    options = {"lora_rank": rank, "lora_alpha": 2 * rank, "lora_sites": "all_attention"}
    model = T5(**sizes, visual_width=8, **options).eval()
    published.load(nn.ModuleDict({"model": model.model}), "textual", parameters)
    delta = 2 * parameters[f"{site}_left_lora"] @ parameters[f"{site}_right_lora"]
    values = torch.randn(3, width)
    adapted = model.model.decoder.block[1].layer[1].EncDecAttention.v
    torch.testing.assert_close(adapted(values), values @ torch.from_numpy(parameters[site] + delta))


def test_layouts():
    dense = np.arange(6.0).reshape(2, 3)
    convolution = np.arange(24.0).reshape(1, 2, 3, 4)
    converted = published.convert("sam_backbone", {"a/kernel": dense, "b/kernel": convolution})
    assert converted["a.weight"].tolist() == dense.T.tolist()
    assert converted["b.weight"].shape == (4, 3, 1, 2)
    assert converted["b.weight"][3, 1, 0, 1] == convolution[0, 1, 1, 3]


def test_whole_model_names_start_with_our_attributes(shared):
    names = {}
    for file in ("model_params_a", "model_params_bert"):
        with np.load(shared / f"golden/published/{file}.npz") as golden:
            names |= {name.removeprefix("params/"): golden[name] for name in golden.files if "params/" in name}
    names = {name: value for name, value in names.items() if not name.startswith("visual_project_layers")}
    converted = published.convert_model(names)
    roots = {name.split(".")[0] for name in converted}
    assert roots == {
        "tuned_encoder",
        "sam_encoder",
        "prompt_encoder",
        "prompt_feature_extractor",
        "language_model",
        "location_head",
    }
    assert "language_model.layers.0.attention_norm.weight" in converted


def test_unmatched_paths_are_named():
    head = LocationHead(width=4, hidden=3, depth=1)
    parameters = {
        "LayerNorm_0/scale": np.ones(4),
        "LayerNorm_0/bias": np.ones(4),
        "mlp/layers.0/kernel": np.ones((4, 4)),
        "mlp/layers.7/bias": np.ones(4),
    }
    message = r"published point_predictor: .*lacks mlp\.layers\.0\.bias; has mlp\.layers\.7\.bias too many"
    with pytest.raises(ValueError, match=message):
        published.load(head, "point_predictor", parameters)
    with pytest.raises(ValueError, match="no counterpart of the published component 'det_backbone'"):
        published.convert_model({"det_backbone/blocks.0/kernel": np.ones(2)})
