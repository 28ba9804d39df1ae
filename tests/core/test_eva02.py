"""EVA-02 against timm's own model, and the two published traits that differ from it."""

import pytest
import timm
import torch
from torch import nn

from pixel_llm.core.eva02 import EVA02

SIZES = {"width": 32, "depth": 3, "heads": 2}


def randomised(module):
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.2)
    return module.eval()


@pytest.mark.parametrize("canvas", [(224, 224), (126, 168)])
def test_equals_the_model_of_the_pretrained_weights(canvas):
    options = {"embed_dim": 32, "depth": 3, "num_heads": 2, "dynamic_img_size": True, "use_fc_norm": False}
    theirs = randomised(timm.create_model("eva02_large_patch14_224", num_classes=0, **options))
    ours = EVA02(**SIZES).eval()
    ours.model.load_state_dict(theirs.state_dict())
    pixels = torch.randn(1, 3, *canvas)
    with torch.no_grad():
        wanted = theirs.forward_features(pixels)[:, 1:]
        got = ours.encode(pixels)
    assert got.shape == (1, 32, canvas[0] // 14, canvas[1] // 14)
    torch.testing.assert_close(got.flatten(2).transpose(1, 2), wanted)


def test_pixels_beyond_the_last_patch_are_not_seen():
    encoder = randomised(EVA02(**SIZES, pretrained_grid=4))
    pixels = torch.randn(1, 3, 66, 61)
    features = encoder.encode(pixels)
    assert features.shape == (1, 32, 4, 4)
    pixels[..., 56:, :] = 7
    pixels[..., 56:] = 7
    assert torch.equal(encoder.encode(pixels), features)


def test_rotary_positions_are_counted_or_rescaled():
    pixels = torch.randn(1, 3, 84, 84)
    for grid, alike in ((6, True), (4, False)):  # at the pretrained grid there is nothing to rescale
        outputs = [
            randomised(EVA02(**SIZES, pretrained_grid=grid, rescale_rope=rescale)).encode(pixels)
            for rescale in (True, False)
        ]
        assert torch.allclose(*outputs, atol=1e-5) == alike


def test_size_of_the_large_model():
    with torch.device("meta"):
        encoder = EVA02(width=1024, depth=24, heads=16)
    assert sum(parameter.numel() for parameter in encoder.parameters()) == 303_268_800
