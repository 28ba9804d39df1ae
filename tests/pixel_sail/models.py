"""Small single transformers, and images with questions for them."""

from typing import Any

import torch
from torch import Tensor

from pixel_llm.pixel_sail.backbone import EncoderFreeBackbone
from pixel_llm.pixel_sail.patch_embedding import PatchEmbedding
from pixel_llm.pixel_sail.pixel_sail import PixelSail, SailImages
from pixel_llm.pixel_sail.transformer import Transformer
from pixel_llm.special_tokens import SpecialTokens
from pixel_llm.structures import Prompts

WIDTH, PATCH = 32, 8
SPECIAL = SpecialTokens(first=50, visual_prompts=3)
PAD, BOS, EOS = 0, 1, 2


def tiny_transformer(**changes: Any) -> Transformer:
    torch.manual_seed(0)
    sizes = {"width": WIDTH, "layers": 2, "heads": 4, "key_value_heads": 2, "feed_forward": 48}
    return Transformer(**{"vocabulary_size": SPECIAL.vocabulary_size, **sizes, **changes})


def tiny_sail(backbone: EncoderFreeBackbone | None = None, **changes: Any) -> PixelSail:
    backbone = backbone or tiny_transformer()
    torch.manual_seed(1)
    patches = PatchEmbedding(backbone.width, PATCH)
    ids = {"special": SPECIAL, "bos_id": BOS, "eos_id": EOS, "pad_id": PAD}
    return PixelSail(backbone=backbone, patch_embedding=patches, **{**ids, **changes}).eval()


def canvases(*sizes: tuple[int, int], side: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Images of noise top left on canvases of zeros, and their sizes."""
    random = torch.Generator().manual_seed(2)
    images = torch.zeros(len(sizes), 3, *side, dtype=torch.uint8)
    for image, (height, width) in zip(images, sizes, strict=True):
        image[:, :height, :width] = torch.randint(0, 256, (3, height, width), generator=random, dtype=torch.uint8)
    return images, torch.tensor(sizes)


def asked(image_index: list[int], questions: list[list[int]] | None) -> Prompts:
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).repeat(len(image_index), 1)
    return Prompts(torch.tensor(image_index), boxes, None if questions is None else padded(questions))


def padded(rows: list[list[int]]) -> Tensor:
    length = max(len(row) for row in rows)
    return torch.tensor([row + [PAD] * (length - len(row)) for row in rows])


def past_values(images: SailImages) -> Tensor:
    """All that texts can read of images, float[B, N + 2, ...]."""
    past: Any = images.past
    return torch.stack([*past.keys, *past.values], dim=-1).transpose(1, 2)
