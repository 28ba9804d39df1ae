"""SAM's image encoder against segment-anything, and what segment-anything cannot do."""

from functools import partial

import pytest
import torch
from segment_anything.modeling import ImageEncoderViT
from torch import nn

from pixel_llm.core import sam_image_encoder
from pixel_llm.core.sam_image_encoder import SamImageEncoder, join_windows, split_windows

SIZES = {"width": 32, "depth": 4, "heads": 2, "global_blocks": (1, 3), "window": 4, "output_channels": 16}


def randomised(module):
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.2)
    return module.eval()


def reference(image_size):
    return ImageEncoderViT(
        img_size=image_size,
        embed_dim=SIZES["width"],
        depth=SIZES["depth"],
        num_heads=SIZES["heads"],
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        out_chans=SIZES["output_channels"],
        use_rel_pos=True,
        window_size=SIZES["window"],
        global_attn_indexes=SIZES["global_blocks"],
    )


@pytest.mark.parametrize("part", [2**21, 6 * 36 * 4, 1])  # all at once, strips of the global blocks, row by row
@pytest.mark.parametrize("image_size", [96, 64])  # 6 x 6 patches need padded windows, 4 x 4 do not
def test_equals_segment_anything(image_size, part, monkeypatch):
    monkeypatch.setattr(sam_image_encoder, "_CPU_PART", part)
    theirs = randomised(reference(image_size))
    ours = SamImageEncoder(**SIZES, image_size=image_size).eval()
    ours.load_state_dict(theirs.state_dict())
    pixels = torch.randn(2, 3, image_size, image_size)
    with torch.no_grad():
        torch.testing.assert_close(ours.encode(pixels), theirs(pixels), rtol=1e-5, atol=1e-5)


def test_gradients_equal_those_of_segment_anything():
    theirs = randomised(reference(96))
    ours = SamImageEncoder(**SIZES, image_size=96).eval()
    ours.load_state_dict(theirs.state_dict())
    pixels = torch.randn(1, 3, 96, 96)
    ours.encode(pixels).square().sum().backward()
    theirs(pixels).square().sum().backward()
    wanted = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name].grad, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("size", [(64, 96), (128, 80)])
def test_other_canvases_need_no_other_parameters(size):
    encoder = randomised(SamImageEncoder(**SIZES, image_size=96))
    with torch.no_grad():
        features = encoder.encode(torch.randn(1, 3, *size))
    assert features.shape == (1, 16, size[0] // 16, size[1] // 16)


def test_windows_can_be_joined_again():
    tokens = torch.randn(2, 6, 9, 3)
    windows = split_windows(tokens, 4)
    assert windows.shape == (2 * 2 * 3, 4, 4, 3)
    assert torch.equal(windows[1, :, :, 0], tokens[0, :4, 4:8, 0])
    assert torch.equal(join_windows(windows, (6, 9)), tokens)


def test_published_stochastic_depth_survives_freezing_and_nothing_else_does():
    pixels = torch.randn(8, 3, 96, 96)
    for rate, alike in ((0.0, True), (0.9, False)):
        encoder = randomised(SamImageEncoder(**SIZES, image_size=96, drop_path=rate)).freeze().train()
        assert not encoder.neck.training
        assert torch.equal(encoder.encode(pixels), encoder.encode(pixels)) == alike
        encoder.eval()
        assert torch.equal(encoder.encode(pixels), encoder.encode(pixels))
