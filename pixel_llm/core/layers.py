"""Small layers that several components share."""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm (eps 1e-6) over the channels of float[B, D, H, W]."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class StochasticDepth(nn.Module):
    """Drops a residual branch for whole samples in training, with probability `rate` (Huang et al. 2016)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return branch
        keep = torch.rand(len(branch), *[1] * (branch.dim() - 1), device=branch.device) >= self.rate
        return branch * keep / (1 - self.rate)


class FeedForward(nn.Module):
    """The feed-forward half of a transformer block, float[..., D]; named as in segment-anything."""

    def __init__(self, width: int, hidden: int, activation: Callable[[Tensor], Tensor] = F.gelu) -> None:
        super().__init__()
        self.lin1 = nn.Linear(width, hidden)
        self.lin2 = nn.Linear(hidden, width)
        self.activation = activation

    def forward(self, tokens: Tensor) -> Tensor:
        return self.lin2(self.activation(self.lin1(tokens)))


class MLP(nn.Module):
    """`depth` linear layers with an activation between them; named as in segment-anything."""

    def __init__(
        self,
        input_width: int,
        hidden: int,
        output_width: int,
        depth: int,
        activation: Callable[[Tensor], Tensor] = F.relu,
    ) -> None:
        super().__init__()
        widths = [input_width, *[hidden] * (depth - 1), output_width]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.activation = activation

    def forward(self, values: Tensor) -> Tensor:
        for layer in list(self.layers)[:-1]:
            values = self.activation(layer(values))
        return self.layers[-1](values)


def split_heads(values: Tensor, heads: int) -> Tensor:
    """float[B, N, heads * d] -> float[B, heads, N, d]."""
    return values.unflatten(-1, (heads, -1)).transpose(1, 2)


def join_heads(values: Tensor) -> Tensor:
    """float[B, heads, N, d] -> float[B, N, heads * d]."""
    return values.transpose(1, 2).flatten(2)


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int, key_valid: Tensor | None = None) -> Tensor:
    """Multi-head attention of projected values: float[B, N, D], float[B, M, D] twice -> float[B, N, D].

    key_valid: bool[B, M], False for keys that nothing attends to.
    """
    query, key, value = (split_heads(values, heads) for values in (query, key, value))
    mask = None if key_valid is None else key_valid[:, None, None]
    return join_heads(F.scaled_dot_product_attention(query, key, value, attn_mask=mask))


def start_lecun_normal(module: nn.Module) -> None:
    """Start a linear layer with variance 1 / inputs and no bias, as the published implementation does; for `apply`.

    PyTorch's default has a third of that variance: through a few attention layers the signal that depends on the
    image then nearly vanishes against the biases.
    """
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=module.in_features**-0.5)
        nn.init.zeros_(module.bias)
