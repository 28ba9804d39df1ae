import torch
from torch.nn import functional as F

from pixel_llm.core.image_encoder import IMAGENET_MEAN, IMAGENET_STD
from pixel_llm.pixel_sail.patch_embedding import PatchEmbedding


def test_it_is_a_convolution_over_the_patches_of_normalised_pixels() -> None:
    """Which fixes the order of a patch's values: channel, row, column."""
    embedding = PatchEmbedding(6, 4)
    images = torch.randint(0, 256, (2, 3, 10, 15))
    sizes = torch.tensor([[10, 15], [5, 3]])
    pixels = (images - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / torch.tensor(IMAGENET_STD).view(3, 1, 1)
    pixels[1, :, 5:], pixels[1, :, :, 3:] = 0, 0
    expected = F.conv2d(F.pad(pixels, (0, 1, 0, 2)), embedding.linear.weight.view(6, 3, 4, 4), stride=4)
    torch.testing.assert_close(embedding(images, sizes), expected, atol=1e-5, rtol=1e-5)
    assert embedding.grids(sizes).tolist() == [[3, 4], [2, 1]]
