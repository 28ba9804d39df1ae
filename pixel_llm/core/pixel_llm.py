"""PixelLLM: (image, prompt, text) -> words, each with its location. Composes the components; Figure 2 of the paper."""

import math
from typing import Literal, cast

import torch
from torch import Tensor, nn

from pixel_llm.coordinates import boxes_01_to_canvas_px, corners_to_box
from pixel_llm.core.decoding import DecodingRule, decode
from pixel_llm.core.feature_fusion import fuse_features
from pixel_llm.core.image_encoder import ImageEncoder
from pixel_llm.core.language_model import LanguageModel, Prefix
from pixel_llm.core.location_head import LocationHead
from pixel_llm.core.mask_head import MaskHead
from pixel_llm.core.prompt_encoder import PromptEncoder
from pixel_llm.core.prompt_feature_extractor import Extractor, PromptFeatureExtractor
from pixel_llm.core.proposal_head import ProposalHead
from pixel_llm.structures import Generation, ImageFeatures, Localization, Prompts, TokenOutputs

LocationStep = Literal["predicting", "input"]
BoxStep = Literal["eos", "last_word"]


class PixelLLM(nn.Module):
    """The whole model.

    sam_encoder: SAM's image encoder, frozen.  tuned_encoder: the second encoder (EVA-02), tuned.
    prompt_encoder: SAM's.  prompt_feature_extractor, language_model, location_head: what their files say.
    location_step: the state that a word's location is read from. "predicting": the one that predicts the word
        (the paper, p_i = MLP(L(f, w_1:i-1))); "input": the one that has just read it (the published code).
    box_step: the state that the box of a query is read from. "eos": the one that has read </s> (the paper, Eq. 5);
        "last_word": the one that has read the query's last word and predicts </s> (the published code).
    mask_head: makes masks of located queries; None in a model that does not segment.
    proposal_head: finds objects; None in a model that is only asked.
    """

    def __init__(
        self,
        *,
        sam_encoder: ImageEncoder,
        tuned_encoder: ImageEncoder,
        prompt_encoder: PromptEncoder,
        prompt_feature_extractor: Extractor,
        language_model: LanguageModel,
        location_head: LocationHead,
        location_step: LocationStep = "predicting",
        box_step: BoxStep = "eos",
        mask_head: MaskHead | None = None,
        proposal_head: ProposalHead | None = None,
    ) -> None:
        super().__init__()
        self.sam_encoder = sam_encoder
        self.tuned_encoder = tuned_encoder
        self.prompt_encoder = prompt_encoder
        self.prompt_feature_extractor = prompt_feature_extractor
        self.language_model = language_model
        self.location_head = location_head
        self.location_step, self.box_step = location_step, box_step
        self.mask_head = mask_head
        self.proposal_head = proposal_head
        self.query_tokens_placed = False

    def place_query_tokens(self) -> None:
        """Start the query tokens at the position codes of a grid of points (`query_grid`).

        To be called again when the prompt encoder, and with it the position code, has been replaced.
        """
        extractor = cast(PromptFeatureExtractor, self.prompt_feature_extractor)
        extractor.place_query_tokens(self.prompt_encoder.dense_pe(self.query_grid))
        self.query_tokens_placed = True

    @property
    def query_grid(self) -> tuple[int, int]:
        """Rows and columns of the grid, as square as the number of query tokens allows."""
        number = len(cast(PromptFeatureExtractor, self.prompt_feature_extractor).query_tokens)
        rows = next(r for r in range(math.isqrt(number), 0, -1) if number % r == 0)
        return rows, number // rows

    def encode_images(self, images: Tensor, sizes: Tensor, sam: Tensor | None = None) -> ImageFeatures:
        """images: uint8 or float32[B, 3, H, W] in 0..255; sizes: int[B, 2] of the real part of each canvas.

        sam: float[B, D', H', W'], what SAM's encoder made of them before; it then does not run.
        """
        if sam is None:
            sam = self.sam_encoder(images, sizes)
        else:
            sam = sam.to(next(self.sam_encoder.parameters()).dtype)
        fused = fuse_features([self.tuned_encoder(images, sizes), sam])
        return ImageFeatures(fused, sam, sizes, (images.shape[-2], images.shape[-1]))

    def extract(self, features: ImageFeatures, prompts: Prompts) -> Tensor:
        """Prompt features float[P, Q, D]: what each prompt asks about, drawn out of its image."""
        return self._extract(features, prompts)

    def forward(self, features: ImageFeatures, prompts: Prompts, tokens: Tensor) -> TokenOutputs:
        """Teacher forcing on tokens int[P, T]."""
        hidden = self.language_model.hidden_states(self._read_prompts(features, prompts), tokens)
        return TokenOutputs(self.language_model.logits(hidden), self._locations(hidden))

    def locate(self, features: ImageFeatures, prompts: Prompts, queries: Tensor) -> Localization:
        """Find what queries int[P, T] (<bos> w1 .. wn </s>) name within the prompts' boxes; Equation 5."""
        lm = self.language_model
        prefix = self._read_prompts(features, prompts)
        hidden = lm.hidden_states(prefix, queries)
        end = (queries == lm.eos_id).int().argmax(1)
        state = end if self.box_step == "eos" else end - 1
        corners = self.location_head(hidden[torch.arange(len(queries), device=end.device), state])
        valid = torch.arange(queries.shape[1], device=end.device) <= end[:, None]
        return Localization(corners, corners_to_box(corners), prefix.visual, hidden, valid)

    def segment(
        self, features: ImageFeatures, prompts: Prompts, found: Localization, boxes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Masks of located queries: logits float[P, 1, 4h, 4w] on the canvas and expected IoU float[P, 1].

        boxes: float[P, 4] in [0, 1], what the mask decoder is prompted with; no gradient flows into them.
        """
        assert self.mask_head is not None, "this model has no mask head"
        index = prompts.image_index
        pixels = boxes_01_to_canvas_px(boxes, features.sizes[index])
        read = (found.visual, found.hidden, found.valid)
        return self.mask_head(features.sam, self.prompt_encoder, pixels, features.canvas, index, *read)

    @torch.no_grad()
    def generate(self, features: ImageFeatures, prompts: Prompts, rule: DecodingRule) -> Generation:
        """Write a caption for every prompt; words and locations come out of one pass."""
        lm = self.language_model
        prefix = self._read_prompts(features, prompts)
        first = torch.full_like(prompts.image_index, lm.bos_id)
        decoded = decode(lm, prefix, first, rule)
        last = decoded.hidden.new_zeros(len(first), 1, lm.width)  # </s> is never read, its row means nothing
        locations = self._locations(torch.cat([decoded.hidden, last], dim=1))
        return Generation(decoded.tokens, locations, decoded.scores)

    def _read_prompts(self, features: ImageFeatures, prompts: Prompts) -> Prefix:
        """The language model's prefix; a region that several prompts ask about is drawn from its image once."""
        if prompts.points is not None:
            return self.language_model.encode_prefix(self._extract(features, prompts), prompts.context)
        regions = torch.cat([prompts.image_index[:, None].to(prompts.boxes), prompts.boxes], dim=1)
        regions, rows = regions.unique(dim=0, return_inverse=True)
        visual = self._extract(features, Prompts(regions[:, 0].long(), regions[:, 1:]))
        if prompts.context is None:
            return self.language_model.encode_prefix(visual, None).select(rows)
        return self.language_model.encode_prefix(visual[rows], prompts.context)

    def _extract(self, features: ImageFeatures, prompts: Prompts) -> Tensor:
        return self.prompt_feature_extractor.extract(features, prompts, self.prompt_encoder)

    def _locations(self, hidden: Tensor) -> Tensor:
        """float[P, T, D], row t after reading token t -> float[P, T, 2, 2], row t belonging to token t."""
        locations = self.location_head(hidden)
        return locations.roll(1, dims=1) if self.location_step == "predicting" else locations
