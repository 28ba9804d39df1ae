"""Pixels into a language model without an encoder: one linear map of each patch."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixel_llm.core.image_encoder import IMAGENET_MEAN, IMAGENET_STD, ImageEncoder


class PatchEmbedding(ImageEncoder):
    """Maps the 3 * patch * patch values of a patch (channel, row, column) to `width` channels.

    A canvas whose sides are no multiples of `patch` goes on as zeros to the next one.
    """

    def __init__(self, width: int, patch: int) -> None:
        super().__init__(channels=width, mean=IMAGENET_MEAN, std=IMAGENET_STD)
        self.patch = patch
        self.linear = nn.Linear(3 * patch * patch, width, bias=False)
        nn.init.normal_(self.linear.weight, std=0.02)

    def encode(self, pixels: Tensor) -> Tensor:
        height, width = pixels.shape[-2:]
        patch = self.patch
        rows, columns = -(-height // patch), -(-width // patch)
        pixels = F.pad(pixels, (0, columns * patch - width, 0, rows * patch - height))
        patches = pixels.unflatten(3, (columns, patch)).unflatten(2, (rows, patch))
        return self.linear(patches.permute(0, 2, 4, 1, 3, 5).flatten(3)).permute(0, 3, 1, 2)

    def grids(self, sizes: Tensor) -> Tensor:
        """Rows and columns of patches with a pixel of the image in them, int[B, 2]; sizes: int[B, 2] in pixels."""
        return -torch.div(-sizes, self.patch, rounding_mode="floor")
