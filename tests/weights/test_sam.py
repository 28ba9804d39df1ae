"""Official SAM files: written by segment-anything, read into our modules, same features."""

from functools import partial

import pytest
import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import nn

from pixel_llm.core.mask_decoder import MaskDecoder as OurMaskDecoder
from pixel_llm.core.prompt_encoder import PromptEncoder as OurPromptEncoder
from pixel_llm.core.sam_image_encoder import SamImageEncoder
from pixel_llm.weights.sam import load_sam

ENCODER = {"width": 32, "depth": 2, "heads": 2, "global_blocks": (1,), "window": 3, "output_channels": 32}


@pytest.fixture(scope="module")
def sam():
    torch.manual_seed(0)
    encoder = ImageEncoderViT(
        img_size=64,
        embed_dim=32,
        depth=2,
        num_heads=2,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        out_chans=32,
        use_rel_pos=True,
        window_size=3,
        global_attn_indexes=(1,),
    )
    prompts = PromptEncoder(32, (4, 4), (64, 64), 16)
    transformer = TwoWayTransformer(depth=2, embedding_dim=32, mlp_dim=24, num_heads=4)
    model = Sam(encoder, prompts, MaskDecoder(transformer_dim=32, transformer=transformer))
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model.eval()


@pytest.fixture
def path(sam, tmp_path):
    torch.save(sam.state_dict(), tmp_path / "sam.pth")
    return tmp_path / "sam.pth"


def test_all_three_parts(sam, path):
    encoder, prompts = SamImageEncoder(**ENCODER, image_size=64).eval(), OurPromptEncoder(width=32)
    decoder = OurMaskDecoder(width=32, heads=4, mlp=24)
    load_sam(path, image_encoder=encoder, prompt_encoder=prompts, mask_decoder=decoder)
    image, box = torch.randint(0, 256, (3, 64, 64)).float(), torch.tensor([[10.0, 20.0, 40.0, 60.0]])
    with torch.no_grad():
        wanted = sam([{"image": image, "boxes": box, "original_size": (64, 64)}], multimask_output=True)[0]
        features = encoder(image[None], torch.tensor([[64, 64]]))
        position, first = prompts.dense_pe((4, 4)), torch.zeros(1, dtype=torch.long)
        sparse = prompts.embed_boxes(box, (64, 64))
        masks, iou = decoder(features, position, sparse, prompts.no_mask, first, multimask=True)
    torch.testing.assert_close(masks, wanted["low_res_logits"], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(iou, wanted["iou_predictions"], atol=1e-4, rtol=1e-4)


def test_one_part_alone(sam, path):
    prompts = OurPromptEncoder(width=32)
    load_sam(path, prompt_encoder=prompts)
    assert torch.equal(prompts.no_mask, sam.prompt_encoder.no_mask_embed.weight)


def test_another_size_is_named(path):
    with pytest.raises(ValueError, match=r"sam.pth: image_encoder: another size: .* wants"):
        load_sam(path, image_encoder=SamImageEncoder(**ENCODER, image_size=96))
    with pytest.raises(ValueError, match=r"does not fit: lacks blocks\.2"):
        load_sam(path, image_encoder=SamImageEncoder(**{**ENCODER, "depth": 3}, image_size=64))


def test_a_file_of_something_else_is_named(tmp_path):
    torch.save(nn.Linear(2, 3).state_dict(), tmp_path / "linear.pth")
    with pytest.raises(ValueError, match=r"linear.pth: not a SAM checkpoint: no tensor named image_encoder"):
        load_sam(tmp_path / "linear.pth", image_encoder=SamImageEncoder(**ENCODER, image_size=64))
