"""What every image encoder gets from its base class: pixels made ready, and freezing that lasts."""

import pytest
import torch
from torch import nn

from pixel_llm.core.image_encoder import IMAGENET_MEAN, IMAGENET_STD, ImageEncoder


class Pixels(ImageEncoder):
    """Returns its (ready made) pixels through one parameter and dropout."""

    def __init__(self):
        super().__init__(channels=3, mean=IMAGENET_MEAN, std=IMAGENET_STD)
        self.scale = nn.Parameter(torch.ones(()))
        self.dropout = nn.Dropout(0.5)

    def encode(self, pixels):
        return self.dropout(self.scale * pixels)


@pytest.fixture
def images():
    torch.manual_seed(0)
    return torch.randint(0, 256, (2, 3, 6, 8), dtype=torch.uint8)


def test_pixels_are_normalised_per_channel_and_zero_in_the_padding(images):
    pixels = Pixels().eval()(images, torch.tensor([[6, 5], [4, 8]]))
    assert pixels[0, 0, 5, 4].item() == pytest.approx((images[0, 0, 5, 4].item() - 123.675) / 58.395)
    assert pixels[1, 2, 3, 7].item() == pytest.approx((images[1, 2, 3, 7].item() - 103.53) / 57.375)
    assert torch.count_nonzero(pixels[0, :, :, 5:]) == 0
    assert torch.count_nonzero(pixels[1, :, 4:]) == 0


def test_uint8_and_float_images_are_the_same(images):
    encoder, sizes = Pixels().eval(), torch.tensor([[6, 8], [6, 8]])
    assert torch.equal(encoder(images, sizes), encoder(images.float(), sizes))


def test_statistics_move_with_the_module_but_are_not_saved():
    encoder = Pixels()
    assert set(encoder.state_dict()) == {"scale"}
    assert encoder.to("meta").mean.device.type == "meta"


def test_frozen_stays_frozen_whatever_its_parent_does(images):
    parent = nn.ModuleDict({"encoder": Pixels().freeze()})
    parent.train()
    encoder, sizes = parent["encoder"], torch.tensor([[6, 8], [6, 8]])
    assert torch.equal(encoder(images, sizes), encoder(images, sizes))  # no dropout
    assert not any(module.training for module in encoder.modules())
    assert not encoder.scale.requires_grad
    assert encoder(images.float().requires_grad_(), sizes).grad_fn is None


def test_tuned_encoder_gets_gradients(images):
    encoder = Pixels().train()
    encoder(images, torch.tensor([[6, 8], [6, 8]])).sum().backward()
    assert encoder.scale.grad is not None
