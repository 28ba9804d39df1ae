"""The mask head: SAM as it was while the adapter adds nothing, and no gradient into the box."""

from functools import partial

import pytest
import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import nn

from pixel_llm.core import mask_decoder, prompt_encoder
from pixel_llm.core.mask_adapter import LearnedEmbedding
from pixel_llm.core.mask_head import MaskHead

CANVAS = (64, 64)
BOXES = torch.tensor([[3.0, 5.0, 40.0, 50.0], [10.0, 20.0, 30.5, 60.0], [0.0, 0.0, 48.0, 64.0]])
INDEX = torch.tensor([0, 1, 1])


@pytest.fixture
def theirs():
    torch.manual_seed(0)
    encoder = ImageEncoderViT(
        img_size=64, embed_dim=16, depth=1, num_heads=2, norm_layer=partial(nn.LayerNorm, eps=1e-6), out_chans=16
    )
    transformer = TwoWayTransformer(depth=2, embedding_dim=16, mlp_dim=24, num_heads=2)
    decoder = MaskDecoder(transformer_dim=16, transformer=transformer, iou_head_hidden_dim=16)
    return Sam(encoder, PromptEncoder(16, (4, 4), CANVAS, 8), decoder).eval()


@pytest.fixture
def ours(theirs):
    """Our mask head and prompt encoder with the same weights."""
    decoder = mask_decoder.MaskDecoder(width=16, heads=2, mlp=24, iou_hidden=16)
    decoder.load_state_dict(theirs.mask_decoder.state_dict())
    prompts = prompt_encoder.PromptEncoder(width=16, padding_tokens=3)
    prompts.load_state_dict(theirs.prompt_encoder.state_dict(), strict=False)
    return MaskHead(decoder, LearnedEmbedding(16)), prompts


def segment(ours, features, boxes):
    head, prompts = ours
    return head(features, prompts, boxes, CANVAS, INDEX, torch.zeros(3, 1, 2), torch.zeros(3, 1, 2))


@torch.no_grad()
def test_equals_sam_asked_by_boxes(theirs, ours):
    """The padding that the published extractor wants behind a box is nothing that the mask decoder sees."""
    features = torch.randn(2, 16, 4, 4)
    masks, iou = segment(ours, features, BOXES)
    for image in (0, 1):
        sparse, dense = theirs.prompt_encoder(None, BOXES[image == INDEX], None)
        place = theirs.prompt_encoder.get_dense_pe()
        wanted = theirs.mask_decoder(features[[image]], place, sparse, dense, multimask_output=False)
        torch.testing.assert_close(masks[image == INDEX], wanted[0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(iou[image == INDEX], wanted[1], atol=1e-5, rtol=1e-4)


def test_what_the_adapter_adds_changes_the_mask_and_learns_from_it(ours):
    features, boxes = torch.randn(2, 16, 4, 4), BOXES.clone().requires_grad_()
    masks, _ = segment(ours, features, boxes)
    masks.square().sum().backward()
    embedding = ours[0].adapter.embedding
    assert boxes.grad is None
    assert embedding.grad.abs().min() > 0
    with torch.no_grad():
        embedding += 1
    assert not torch.allclose(segment(ours, features, boxes)[0], masks, atol=1e-3)
