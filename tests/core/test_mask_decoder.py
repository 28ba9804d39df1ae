"""The mask decoder on the prompts of several images against segment-anything's, prompt by prompt."""

import pytest
import torch
from segment_anything.modeling import MaskDecoder as TheirMaskDecoder
from segment_anything.modeling import TwoWayTransformer

from pixel_llm.core.mask_decoder import MaskDecoder


@pytest.fixture(params=[2, 4], ids="heads {}".format)  # tokens carry the projections of the image with 2, not with 4
def decoders(request):
    torch.manual_seed(0)
    transformer = TwoWayTransformer(depth=2, embedding_dim=32, mlp_dim=24, num_heads=request.param)
    theirs = TheirMaskDecoder(transformer_dim=32, transformer=transformer, iou_head_hidden_dim=20)
    ours = MaskDecoder(width=32, depth=2, heads=request.param, mlp=24, iou_hidden=20)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


@pytest.mark.parametrize("multimask", [False, True])
def test_ragged_prompts_equal_one_prompt_at_a_time(decoders, multimask):
    ours, theirs = decoders
    images, position = torch.randn(4, 32, 30, 40), torch.randn(1, 32, 30, 40)
    index = torch.tensor([0, 1, 1, 1, 3, 3, 3, 3])  # nobody asks about the third image; too many for one go
    sparse, dense = torch.randn(8, 2, 32), torch.randn(1, 32)
    masks, iou = ours(images, position[0], sparse, dense, index, multimask=multimask)
    assert masks.shape == (8, 3 if multimask else 1, 120, 160)
    for prompt, image in enumerate(index.tolist()):
        wanted = theirs(
            images[image : image + 1],
            position,
            sparse[prompt : prompt + 1],
            dense[..., None, None].expand(-1, -1, 30, 40),
            multimask_output=multimask,
        )
        torch.testing.assert_close(masks[prompt], wanted[0][0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(iou[prompt], wanted[1][0], atol=1e-5, rtol=1e-4)
