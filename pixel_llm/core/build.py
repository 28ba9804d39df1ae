"""The one table of sizes: components by their published names, and the composition of a whole PixelLLM."""

from collections.abc import Callable
from typing import Literal

from pixel_llm.core.eva02 import EVA02
from pixel_llm.core.image_encoder import ImageEncoder
from pixel_llm.core.language_model import LanguageModel
from pixel_llm.core.location_head import LocationHead
from pixel_llm.core.mask_adapter import GatedMaskAdapter, LearnedEmbedding, MaskAdapter
from pixel_llm.core.mask_head import MaskHead
from pixel_llm.core.pixel_llm import BoxStep, LocationStep, PixelLLM
from pixel_llm.core.prompt_encoder import PromptEncoder
from pixel_llm.core.prompt_feature_extractor import Extractor, PromptFeatureExtractor
from pixel_llm.core.proposal_head import ProposalHead
from pixel_llm.core.roi_align_extractor import RoIAlignExtractor
from pixel_llm.core.sam import sam_mask_decoder
from pixel_llm.core.sam_image_encoder import SamImageEncoder
from pixel_llm.core.t5 import T5, LoraSites

# width, depth, heads, global blocks (Kirillov et al. 2023)
SAM_SIZES = {
    "vit_b": (768, 12, 12, (2, 5, 8, 11)),
    "vit_l": (1024, 24, 16, (5, 11, 17, 23)),
    "vit_h": (1280, 32, 16, (7, 15, 23, 31)),
}
# width, layers of each stack, heads, head width, feed-forward (T5 1.1 and Flan-T5)
T5_SIZES = {
    "small": (512, 8, 6, 64, 1024),
    "base": (768, 12, 12, 64, 2048),
    "large": (1024, 24, 16, 64, 2816),
    "xl": (2048, 24, 32, 64, 5120),
    "xxl": (4096, 24, 64, 64, 10240),
}


def sam_image_encoder(size: Literal["vit_b", "vit_l", "vit_h"] = "vit_h", drop_path: float = 0.0) -> SamImageEncoder:
    """SAM's image encoder as released, for position tables of 1024 pixels; it runs on any canvas.

    drop_path: the published PixelLLM trained with 0.5 although the encoder is frozen.
    """
    width, depth, heads, global_blocks = SAM_SIZES[size]
    return SamImageEncoder(
        width=width, depth=depth, heads=heads, global_blocks=global_blocks, image_size=1024, drop_path=drop_path
    )


def eva02_large(rescale_rope: bool = True, mlp_norm_eps: float = 1e-6, drop_path: float = 0.1) -> EVA02:
    """EVA-02-L/14, masked image modelling at 224 pixels (timm's `eva02_large_patch14_224`)."""
    return EVA02(
        width=1024, depth=24, heads=16, rescale_rope=rescale_rope, mlp_norm_eps=mlp_norm_eps, drop_path=drop_path
    )


def t5(
    size: Literal["small", "base", "large", "xl", "xxl"] = "xl",
    visual_width: int = 1024,
    dropout: float = 0.1,
    trainable: Literal["all", "lora", "nothing"] = "lora",
    lora_rank: int = 32,
    lora_alpha: float = 64.0,
    lora_sites: LoraSites = "self_attention",
) -> T5:
    """T5 by its released size; arguments as in `T5`."""
    width, layers, heads, head_width, feed_forward = T5_SIZES[size]
    return T5(
        width=width,
        layers=layers,
        heads=heads,
        head_width=head_width,
        feed_forward=feed_forward,
        vocabulary_size=32128,
        visual_width=visual_width,
        dropout=dropout,
        trainable=trainable,
        lora_rank=lora_rank,
        lora_alpha=lora_alpha,
        lora_sites=lora_sites,
    )


def pixel_llm(
    sam_encoder: SamImageEncoder,
    tuned_encoder: ImageEncoder,
    language_model: LanguageModel,
    extractor: Literal["prompt", "roi_align"] = "prompt",
    extractor_width: int = 512,
    extractor_depth: int = 2,
    extractor_heads: int = 8,
    extractor_mlp: int = 2048,
    query_tokens: int = 32,
    query_start: Literal["random", "grid"] = "random",
    prompt_padding_tokens: int = 0,
    dense_output: bool = False,
    location_hidden: int = 512,
    location_depth: int = 4,
    location_extra_channels: int = 0,
    location_step: LocationStep = "predicting",
    box_step: BoxStep = "eos",
    mask_adapter: Literal["none", "embedding", "gated"] = "none",
    mask_decoder_depth: int = 2,
    mask_decoder_heads: int = 8,
    proposal_head: Callable[[int], ProposalHead] | None = None,
) -> PixelLLM:
    """Compose a PixelLLM; every width that follows from another is worked out here. SAM's encoders are frozen.

    extractor: "prompt" is the paper's prompt feature extractor; "roi_align" pools the box alone, for comparison.
    extractor_*, query_tokens, dense_output: see `PromptFeatureExtractor`; RoIAlign has the width alone.
    query_start: "grid" starts the query tokens at the position codes of a square grid of points.
    prompt_padding_tokens: see `PromptEncoder`.  location_*, box_step: see `LocationHead` and `PixelLLM`.
    mask_adapter: "none" makes a model without masks; "embedding" is the paper's, "gated" the published code's adapter.
    mask_decoder_*: sizes of SAM's mask decoder.
    proposal_head: makes one for the channels of the fused features; None makes a model that is only asked.
    """
    prompt_encoder = PromptEncoder(width=sam_encoder.channels, padding_tokens=prompt_padding_tokens)
    image_channels = tuned_encoder.channels + sam_encoder.channels
    reader: Extractor
    if extractor == "roi_align":
        reader = RoIAlignExtractor(
            image_channels=image_channels, width=extractor_width, output_width=language_model.visual_width
        )
    else:
        reader = PromptFeatureExtractor(
            image_channels=image_channels,
            prompt_width=sam_encoder.channels,
            width=extractor_width,
            depth=extractor_depth,
            heads=extractor_heads,
            mlp=extractor_mlp,
            query_tokens=query_tokens,
            output_width=language_model.visual_width,
            dense_output=dense_output,
        )
    model = PixelLLM(
        sam_encoder=sam_encoder.freeze(),
        tuned_encoder=tuned_encoder,
        prompt_encoder=prompt_encoder.requires_grad_(False),
        prompt_feature_extractor=reader,
        language_model=language_model,
        location_head=LocationHead(
            width=language_model.width,
            hidden=location_hidden,
            depth=location_depth,
            extra_channels=location_extra_channels,
        ),
        location_step=location_step,
        box_step=box_step,
        mask_head=None
        if mask_adapter == "none"
        else _mask_head(mask_adapter, sam_encoder.channels, language_model, mask_decoder_depth, mask_decoder_heads),
        proposal_head=None if proposal_head is None else proposal_head(image_channels),
    )
    if query_start == "grid" and extractor == "prompt":
        model.place_query_tokens()
    return model


def _mask_head(
    kind: Literal["embedding", "gated"], width: int, language_model: LanguageModel, depth: int, heads: int
) -> MaskHead:
    adapter: MaskAdapter = LearnedEmbedding(width)
    if kind == "gated":
        adapter = GatedMaskAdapter(
            language_model.adapter_width, language_model.width, width, heads=heads, mlp=8 * width
        )
    return MaskHead(sam_mask_decoder(width, depth, heads), adapter)
