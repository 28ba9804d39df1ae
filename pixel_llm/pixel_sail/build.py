"""Pixel-SAIL by its sizes; every width that follows from another is worked out here."""

from pixel_llm.pixel_sail.backbone import EncoderFreeBackbone
from pixel_llm.pixel_sail.mask_head import MaskHead
from pixel_llm.pixel_sail.patch_embedding import PatchEmbedding
from pixel_llm.pixel_sail.pixel_sail import PixelSail
from pixel_llm.pixel_sail.visual_prompts import VisualPromptInjection
from pixel_llm.special_tokens import SpecialTokens


def pixel_sail(
    backbone: EncoderFreeBackbone,
    words: int,
    patch: int = 16,
    mask_stride: int | None = 4,
    mask_embedding: int = 512,
    visual_prompts: int = 15,
    inject_visual_prompts: bool = True,
    bos_id: int = 0,
    eos_id: int = 1,
    pad_id: int = 0,
) -> PixelSail:
    """Compose a Pixel-SAIL.

    backbone: the transformer; its vocabulary has room for the words and the symbols behind them.
    words: size of the tokenizer's vocabulary.
    patch: side of a patch in pixels.
    mask_stride: of masks in pixels: the paper's 4, its code's 2, or the patch, which is the paper's plain baseline
        without upsampling; None makes a model without masks.
    mask_embedding: E; the published models have 512 with distillation and 256 without.
    visual_prompts: how many regions of an image can be named.
    inject_visual_prompts: mark the patches of named regions before the first layer; without it nothing says where
        they are.
    """
    special = SpecialTokens(words, visual_prompts)
    sizes = {"width": backbone.width, "patch": patch}
    return PixelSail(
        backbone=backbone,
        patch_embedding=PatchEmbedding(**sizes),
        special=special,
        bos_id=bos_id,
        eos_id=eos_id,
        pad_id=pad_id,
        mask_head=None if mask_stride is None else MaskHead(**sizes, stride=mask_stride, embedding=mask_embedding),
        visual_prompts=VisualPromptInjection(backbone.width) if inject_visual_prompts else None,
    )
