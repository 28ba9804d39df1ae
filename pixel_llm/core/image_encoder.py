"""The image encoder plug: what PixelLLM needs from an image encoder branch, and nothing else.

An encoder takes the padded canvas in 0..255 and returns one feature map; everything that a backbone wants
done to the pixels (its own statistics, zeros in the padding) happens here, so that a caller cannot get it
wrong.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

CLIP_MEAN, CLIP_STD = (122.7709383, 116.7460125, 104.09373615), (68.5005327, 66.6321579, 70.32316305)
IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


class ImageEncoder(nn.Module, ABC):
    """Base class of the image encoders; a subclass writes `encode`.

    channels: D of the feature map.
    mean, std: statistics of RGB in 0..255 that the backbone was pretrained with.
    resized_to: longer side in pixels that a subclass resizes a canvas to; None reads it as it is.
    """

    resized_to: int | None = None
    mean: Tensor
    std: Tensor

    def __init__(self, *, channels: int, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.channels = channels
        self.frozen = False
        # not saved: they belong to the architecture, and official checkpoints have no such entries
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    @abstractmethod
    def encode(self, pixels: Tensor) -> Tensor:
        """float[B, 3, H, W], normalised and zero in the padding -> float[B, D, h, w]."""

    def forward(self, images: Tensor, sizes: Tensor) -> Tensor:
        """Encode a batch of padded canvases.

        images: uint8 or float[B, 3, H, W], RGB in 0..255.
        sizes: int[B, 2], height and width of the real part of each canvas.
        Returns float[B, D, h, w].
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return self.encode(self.normalise(images, sizes))

    def normalise(self, images: Tensor, sizes: Tensor) -> Tensor:
        """(image - mean) / std where the canvas is real and 0 in the padding; arguments as in `forward`."""
        height, width = images.shape[-2:]
        rows = torch.arange(height, device=images.device) < sizes[:, 0, None]
        columns = torch.arange(width, device=images.device) < sizes[:, 1, None]
        real = rows[:, None, :, None] & columns[:, None, None, :]
        pixels = (images.float() - self.mean) / self.std
        return pixels.masked_fill(~real, 0.0).to(next(self.parameters()).dtype)

    def freeze(self) -> Self:
        """Take the encoder out of training for good: no gradients, and eval mode whatever `train()` says."""
        self.frozen = True
        self.requires_grad_(False)
        return self.eval()

    def train(self, mode: bool = True) -> Self:
        return super().train(mode and not self.frozen)
