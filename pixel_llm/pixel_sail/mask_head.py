"""From the states of patches and of [SEG] tokens to masks: a learned upsampling, and inner products."""

import torch
from torch import Tensor, nn

from pixel_llm.core.layers import MLP, LayerNorm2d

_MOST_CHANNELS = 1024


class MaskHead(nn.Module):
    """Masks at a finer stride than the patches'.

    width: D of the transformer's states; above 1024 they pass through an MLP to 1024 channels first.
    patch: side of a patch in pixels.  stride: of the mask in pixels, the patch divided by a power of two: the paper
        says 4, its code makes 2; that of the patch itself gives the paper's plain baseline without any upsampling.
    embedding: E, channels in which masks are looked for.
    Raises ValueError for a stride that repeated halving of the patch does not reach.
    """

    def __init__(self, *, width: int, patch: int, stride: int, embedding: int) -> None:
        super().__init__()
        doublings = (patch // stride).bit_length() - 1 if stride > 0 else -1
        if doublings < 0 or stride << doublings != patch:
            raise ValueError(f"a mask stride of {stride}: patches of {patch} cannot be halved to it")
        self.stride, self.embedding = stride, embedding
        channels = min(width, _MOST_CHANNELS)
        self.state_mlp = MLP(width, width, channels, 2) if width > channels else nn.Identity()
        self.upsampling = nn.Sequential(*(Upsampling(channels) for _ in range(doublings)))
        self.pixel_mlp = MLP(channels, channels, embedding, 2)
        self.query_mlp = MLP(width, channels, embedding, 2)

    def features(self, states: Tensor, grid: tuple[int, int]) -> Tensor:
        """What masks of an image are looked for in; once for all its [SEG] tokens.

        states: float[B, N, D] of the patches, row by row.  grid: (rows, columns) of the canvas, N in all.
        Returns float[B, E, h, w], at the stride of masks.
        """
        cells = self.state_mlp(states).transpose(1, 2).unflatten(2, grid)
        return self.pixel_mlp(self.upsampling(cells).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def query(self, hidden: Tensor) -> Tensor:
        """float[S, D], the states of [SEG] tokens -> float[S, E]."""
        return self.query_mlp(hidden)

    def forward(self, features: Tensor, hidden: Tensor, image_index: Tensor) -> Tensor:
        """The masks of S [SEG] tokens in B images, with one product for each image: its features are never copied.

        features: float[B, E, h, w].  hidden: float[S, D].  image_index: int[S], the image of each, non-decreasing.
        Returns logits float[S, h, w] on the canvas. Raises ValueError where images are out of order.
        """
        images = image_index.tolist()
        if images != sorted(images):
            raise ValueError("[SEG] tokens are out of order: those of an image have to follow each other")
        queries = self.query(hidden).split([images.count(image) for image in range(len(features))])
        masks = [some @ image for some, image in zip(queries, features.flatten(2), strict=True)]
        return torch.cat(masks).unflatten(1, features.shape[-2:])


class Upsampling(nn.Sequential):
    """float[B, C, h, w] -> float[B, C, 2h, 2w]."""

    def __init__(self, channels: int) -> None:
        super().__init__(
            nn.ConvTranspose2d(channels, channels, 2, stride=2),
            nn.GELU(),
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels),
            nn.Conv2d(channels, channels, 1),
            LayerNorm2d(channels),
        )
