"""What the language adds to the box that asks for a mask: two embeddings, one for each corner token.

A box alone says little where objects overlap; an adapter may also tell the mask decoder what was meant. The paper
learns one embedding; the published code reads the model's own features of image and text.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from pixel_llm.core.layers import start_lecun_normal
from pixel_llm.core.two_way_transformer import TwoWayTransformer

CORNERS = 2


class MaskAdapter(nn.Module, ABC):
    """Base class of the adapters. All of them start by adding nothing, so the mask decoder starts as it was trained."""

    @abstractmethod
    def forward(self, visual: Tensor, hidden: Tensor, valid: Tensor | None = None) -> Tensor:
        """Make what is added to the tokens of the top left and the bottom right corner.

        visual: float[P, Q, D_v], the visual features of each prompt.
        hidden: float[P, T, D], the language model's states on the text.
        valid: bool[P, T], False for states that are not to be read; None reads all.
        Returns float[P, 2, E].
        """


class LearnedEmbedding(MaskAdapter):
    """The paper's: the same learned embedding whatever image and text are.  width: E of the prompt tokens."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.zeros(CORNERS, width))

    def forward(self, visual: Tensor, hidden: Tensor, valid: Tensor | None = None) -> Tensor:
        return self.embedding.expand(len(hidden), -1, -1)


class GatedMaskAdapter(MaskAdapter):
    """The published one: two learned tokens read [visual ; text] through a two-way transformer, behind a gate.

    visual_width: D_v. With T5 the visual features are those after its projection (the width of the T5), with the
        GIT-style decoder the prompt features before it.
    hidden_width: D of the language model's states.
    width, depth, heads, mlp: of the transformer; `width` is that of the prompt tokens as well.

    The published code reads all rows of the text, padding too: call without `valid` for that.
    """

    def __init__(
        self,
        visual_width: int,
        hidden_width: int,
        width: int = 256,
        depth: int = 2,
        heads: int = 8,
        mlp: int = 2048,
    ) -> None:
        super().__init__()
        self.visual_projection = _normed_projection(visual_width, width)
        self.text_projection = _normed_projection(hidden_width, width)
        self.transformer = TwoWayTransformer(width=width, depth=depth, heads=heads, mlp=mlp)
        self.tokens = nn.Parameter(torch.randn(CORNERS, width))
        self.gate = nn.Parameter(torch.zeros(CORNERS, width))
        self.apply(start_lecun_normal)

    def forward(self, visual: Tensor, hidden: Tensor, valid: Tensor | None = None) -> Tensor:
        read = torch.cat([self.visual_projection(visual), self.text_projection(hidden)], dim=1)
        if valid is not None:
            valid = torch.cat([valid.new_ones(visual.shape[:2]), valid], dim=1)
        tokens = self.tokens.expand(len(hidden), -1, -1)
        nowhere = read.new_zeros(1, read.shape[-1])  # what is read has no position codes
        tokens, _ = self.transformer(read, nowhere, tokens, None, valid)
        return tokens * self.gate.tanh()


def _normed_projection(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(inputs, eps=1e-6), nn.Linear(inputs, outputs))
