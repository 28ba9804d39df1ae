"""EVA-02 files: written by timm, read into our encoder, same features."""

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from pixel_llm.core.eva02 import EVA02
from pixel_llm.weights.eva02 import load_eva02

SIZES = {"width": 32, "depth": 2, "heads": 2}


def save_timm_model(path, **options):
    torch.manual_seed(0)
    sizes = {"embed_dim": 32, "depth": 2, "num_heads": 2, "dynamic_img_size": True}
    model = timm.create_model("eva02_large_patch14_224", **sizes, **options).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    state = model.state_dict()
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return model


@pytest.mark.parametrize("name", ["eva.safetensors", "eva.pth"])
def test_same_features(tmp_path, name):
    theirs = save_timm_model(tmp_path / name, num_classes=7, use_fc_norm=False)  # its head is not wanted
    ours = EVA02(**SIZES).eval()
    load_eva02(ours, str(tmp_path / name))
    pixels = torch.randn(1, 3, 140, 98)
    with torch.no_grad():
        wanted = theirs.forward_features(pixels)[:, 1:]
        torch.testing.assert_close(ours.encode(pixels).flatten(2).transpose(1, 2), wanted)


def test_final_norm_of_a_pooling_model_is_found(tmp_path):
    theirs = save_timm_model(tmp_path / "eva.pth", num_classes=0)
    ours = EVA02(**SIZES)
    load_eva02(ours, tmp_path / "eva.pth")
    assert torch.equal(ours.model.norm.weight, theirs.fc_norm.weight)


def test_another_grid_is_named_and_nothing_is_resized(tmp_path):
    save_timm_model(tmp_path / "eva.pth", num_classes=0)
    with pytest.raises(ValueError, match=r"pos_embed has shape \(1, 257, 32\), the model wants \(1, 26, 32\)"):
        load_eva02(EVA02(**SIZES, pretrained_grid=5), tmp_path / "eva.pth")


def test_a_missing_file_is_not_taken_for_a_model_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors: no such file"):
        load_eva02(EVA02(**SIZES), str(tmp_path / "none.safetensors"))
