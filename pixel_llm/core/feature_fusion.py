"""Fusing the encoders' feature maps into the one map that prompts are asked on."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pixel_llm.core.resize import resize_map


def fuse_features(maps: Sequence[Tensor]) -> Tensor:
    """Resize all maps to the largest grid and concatenate their channels in the given order.

    maps: float[B, D_i, h_i, w_i] each, in the paper [tuned encoder, SAM].
    Returns float[B, sum of D_i, h, w] on the grid that is largest by (h, w).
    """
    grid = max((features.shape[-2], features.shape[-1]) for features in maps)
    return torch.cat([resize_map(features, grid) for features in maps], dim=1)
