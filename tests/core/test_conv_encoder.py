"""The small convolutional encoder: shapes, its position code, its limits."""

import math

import pytest
import torch

from pixel_llm.core.conv_encoder import ConvEncoder, position_code


@pytest.mark.parametrize(("stride", "canvas", "grid"), [(8, (96, 64), (12, 8)), (16, (96, 64), (6, 4))])
def test_stride(stride, canvas, grid):
    encoder = ConvEncoder(width=32, stride=stride, blocks=1, heads=2)
    images = torch.randint(0, 256, (2, 3, *canvas), dtype=torch.uint8)
    features = encoder(images, torch.tensor([canvas, canvas]))
    assert features.shape == (2, 32, *grid)
    features.mean().backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())


def test_position_code_is_sine_and_cosine_of_the_cell_centres():
    code = position_code((2, 4), 8).view(2, 4, 8)  # two frequencies: pi / 2 and 8 pi
    x, y = 2.5 / 4, 0.5 / 2
    low, high = math.pi / 2, 8 * math.pi
    along_x = [math.sin(low * x), math.sin(high * x), math.cos(low * x), math.cos(high * x)]
    along_y = [math.sin(low * y), math.sin(high * y), math.cos(low * y), math.cos(high * y)]
    torch.testing.assert_close(code[0, 2], torch.tensor([*along_x, *along_y]), atol=1e-5, rtol=0)


def test_a_moved_object_moves_the_features_but_not_only_them():
    torch.manual_seed(0)
    encoder = ConvEncoder(width=32, blocks=0).eval()
    images = torch.zeros(2, 3, 128, 128)
    images[0, :, 48:56, 48:56] = 255
    images[1, :, 64:72, 64:72] = 255
    sizes = torch.tensor([[128, 128]] * 2)
    stem = encoder.stem(encoder.normalise(images, sizes))
    torch.testing.assert_close(stem[0, :, 6, 6], stem[1, :, 8, 8])  # the stem does not know the place ...
    placed = encoder(images, sizes)
    assert not torch.allclose(placed[0, :, 6, 6], placed[1, :, 8, 8], atol=0.1)  # ... the position code does


@pytest.mark.parametrize("sizes", [{"width": 32, "stride": 12}, {"width": 30}, {"width": 32, "heads": 3}])
def test_impossible_sizes_are_refused(sizes):
    with pytest.raises(ValueError, match=r"stride|width"):
        ConvEncoder(**sizes)
