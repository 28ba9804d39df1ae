"""The two-way transformer on ragged prompts against segment-anything's, prompt by prompt."""

import pytest
import torch
from segment_anything.modeling.transformer import TwoWayTransformer as TheirTransformer

from pixel_llm.core.two_way_transformer import TwoWayTransformer

IMAGE_INDEX = torch.tensor([0, 0, 1, 2, 2, 2])


def test_ragged_prompts_equal_one_prompt_at_a_time():
    torch.manual_seed(0)
    theirs = TheirTransformer(depth=2, embedding_dim=32, num_heads=4, mlp_dim=24)
    ours = TwoWayTransformer(width=32, depth=2, heads=4, mlp=24)
    ours.load_state_dict(theirs.state_dict())
    images, position, tokens = torch.randn(3, 32, 4, 5), torch.randn(1, 32, 4, 5), torch.randn(6, 7, 32)
    flat = images.flatten(2).transpose(1, 2)
    got_tokens, got_images = ours(flat, position[0].flatten(1).T, tokens, IMAGE_INDEX)
    for prompt, image in enumerate(IMAGE_INDEX.tolist()):
        wanted = theirs(images[image : image + 1], position, tokens[prompt : prompt + 1])
        torch.testing.assert_close(got_tokens[prompt], wanted[0][0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(got_images[prompt], wanted[1][0], atol=1e-5, rtol=1e-4)


def test_first_layer_projects_images_not_prompts():
    transformer = TwoWayTransformer(width=32, depth=1, heads=4, mlp=24)
    rows = {}
    for name in ("cross_attn_token_to_image.k_proj", "cross_attn_image_to_token.q_proj"):
        layer = transformer.layers[0].get_submodule(name)
        layer.register_forward_hook(lambda _, __, output, name=name: rows.update({name: len(output)}))
    transformer(torch.randn(3, 20, 32), torch.randn(20, 32), torch.randn(6, 7, 32), IMAGE_INDEX)
    assert set(rows.values()) == {3}


def test_no_prompts_at_all():
    transformer = TwoWayTransformer(width=32, depth=2, heads=4, mlp=24)
    nothing = torch.zeros(0, dtype=torch.long)
    tokens, images = transformer(torch.randn(3, 20, 32), torch.randn(20, 32), torch.randn(0, 7, 32), nothing)
    assert tokens.shape == (0, 7, 32)
    assert images.shape == (0, 20, 32)


@pytest.mark.parametrize("heads", [1, 4])
def test_every_parameter_learns(heads):
    """Whether the tokens carry the projections of the image (1 head) or not: all gradients equal segment-anything's."""
    torch.manual_seed(0)
    theirs = TheirTransformer(depth=2, embedding_dim=16, mlp_dim=24, num_heads=heads)
    ours = TwoWayTransformer(width=16, depth=2, heads=heads, mlp=24)
    ours.load_state_dict(theirs.state_dict())
    images, position, tokens = torch.randn(3, 16, 3, 4), torch.randn(1, 16, 3, 4), torch.randn(3, 5, 16)
    weights = torch.randn(3, 5, 16), torch.randn(3, 12, 16)

    def gradients(transformer, outputs):
        sum((w * o).sum() for w, o in zip(weights, outputs, strict=True)).backward()
        return {name: parameter.grad for name, parameter in transformer.named_parameters()}

    wanted = gradients(theirs, theirs(images, position.expand(3, -1, -1, -1), tokens))
    cells = images.flatten(2).transpose(1, 2)
    got = gradients(ours, ours(cells, position[0].flatten(1).T, tokens, None))
    for name, gradient in wanted.items():
        torch.testing.assert_close(got[name], gradient, atol=1e-4, rtol=1e-3, msg=name)
