"""The prompt feature extractor: query tokens draw from the image what a prompt asks about (Section 3.1).

A two-way transformer over [query tokens ; prompt tokens] and the image; the outputs of the query tokens are
the visual prefix of the language model. `Extractor` is what any module in its place promises.
"""

from abc import abstractmethod

import torch
from torch import Tensor, nn

from pixel_llm.core.layers import start_lecun_normal
from pixel_llm.core.prompt_encoder import PromptEncoder
from pixel_llm.core.two_way_transformer import TwoWayTransformer
from pixel_llm.structures import ImageFeatures, Prompts

_LOCALITY = 2.0  # how sharply query tokens that start on a grid attend to the cells around them


class Extractor(nn.Module):
    """Base class of what turns prompts into the visual prefix of the language model."""

    @abstractmethod
    def extract(self, features: ImageFeatures, prompts: Prompts, prompt_encoder: PromptEncoder) -> Tensor:
        """float[P, Q, output_width], what each prompt asks about, drawn out of its image."""


class PromptFeatureExtractor(Extractor):
    """(image, prompt) -> float[P, query_tokens, output_width].

    image_channels: channels of the fused feature map.
    prompt_width: width of the prompt encoder's tokens and position codes; projected unless equal to `width`.
    width, depth, heads, mlp: of the two-way transformer.
    query_tokens: Q, each with a linear output layer of its own.
    dense_output: also hold the output layer for image cells that published checkpoints contain. Nothing reads
        it; it exists, frozen, so that sizes and files agree.
    """

    def __init__(
        self,
        *,
        image_channels: int,
        prompt_width: int,
        width: int,
        depth: int,
        heads: int = 8,
        mlp: int = 2048,
        query_tokens: int = 32,
        output_width: int,
        dense_output: bool = False,
    ) -> None:
        super().__init__()
        same = prompt_width == width
        self.image_projection = nn.Linear(image_channels, width)
        self.prompt_projection = nn.Identity() if same else nn.Linear(prompt_width, width)
        self.position_projection = nn.Identity() if same else nn.Linear(prompt_width, width)
        self.query_tokens = nn.Parameter(torch.randn(query_tokens, width))
        self.transformer = TwoWayTransformer(width=width, depth=depth, heads=heads, mlp=mlp)
        # all start alike: from different random maps the language model would have to learn Q codes for one thing
        start = torch.randn(width, output_width) * width**-0.5
        self.output_weight = nn.Parameter(start.repeat(query_tokens, 1, 1))
        self.output_bias = nn.Parameter(torch.zeros(query_tokens, output_width))
        if dense_output:
            self.dense_output = nn.Linear(width, output_width).requires_grad_(False)
        self.apply(start_lecun_normal)

    @torch.no_grad()
    def place_query_tokens(self, position_codes: Tensor) -> None:
        """Start the query tokens on a grid over the image, each reading the image around its own point.

        position_codes: float[prompt_width, h, w], the prompt encoder's codes for a grid of h * w = query_tokens
            cells. They pass through the (untrained) projection that image positions pass through, so that a
            query token and the image cells around its point begin alike; and where tokens read the image, keys
            begin as a multiple of the queries, so that what is alike attracts attention.
        """
        codes = position_codes.flatten(1).T
        if len(codes) != len(self.query_tokens):
            raise ValueError(f"a grid of {len(codes)} cells for {len(self.query_tokens)} query tokens")
        self.query_tokens.copy_(self.position_projection(codes))
        for layer in self.transformer.reading_attentions():
            layer.k_proj.weight.copy_(_LOCALITY * layer.q_proj.weight)

    def extract(self, features: ImageFeatures, prompts: Prompts, prompt_encoder: PromptEncoder) -> Tensor:
        sparse = prompt_encoder.embed(prompts, features)
        image_pe = prompt_encoder.dense_pe((features.fused.shape[-2], features.fused.shape[-1]))
        return self(features.fused, image_pe, sparse, prompt_encoder.no_mask, prompts.image_index)

    def forward(
        self, image: Tensor, image_pe: Tensor, sparse: Tensor, dense: Tensor, image_index: Tensor
    ) -> Tensor:
        """Extract the features of P prompts on B images.

        image: float[B, C, h, w], the fused feature map.
        image_pe: float[E, h, w], the prompt encoder's position codes of its grid.
        sparse: float[P, K, E], prompt tokens.
        dense: float[1, E], the prompt encoder's "no mask" embedding.
        image_index: int[P], the image of each prompt.
        Returns float[P, Q, output_width].
        """
        cells = self.image_projection(image.flatten(2).transpose(1, 2)) + self.prompt_projection(dense)
        positions = self.position_projection(image_pe.flatten(1).T)
        queries = self.query_tokens.expand(len(sparse), -1, -1)
        tokens = torch.cat([queries, self.prompt_projection(sparse)], dim=1)
        tokens, _ = self.transformer(cells, positions, tokens, image_index)
        features = torch.einsum("pqd,qdo->pqo", tokens[:, : len(self.query_tokens)], self.output_weight)
        return features + self.output_bias
