"""The prompt feature extractor: prompts do not disturb each other, query tokens own their output layers."""

import pytest
import torch

from pixel_llm.core.prompt_encoder import PromptEncoder
from pixel_llm.core.prompt_feature_extractor import PromptFeatureExtractor

SIZES = {"image_channels": 24, "depth": 2, "heads": 2, "mlp": 16, "query_tokens": 4, "output_width": 12}


def build(prompt_width=8, width=16, **options):
    torch.manual_seed(0)
    return PromptFeatureExtractor(**SIZES, prompt_width=prompt_width, width=width, **options)


def inputs(prompts, prompt_width=8):
    torch.manual_seed(1)
    image, image_pe = torch.randn(3, 24, 4, 5), torch.randn(prompt_width, 4, 5)
    return image, image_pe, torch.randn(prompts, 2, prompt_width), torch.randn(1, prompt_width)


@pytest.mark.parametrize("prompt_width", [8, 16])  # with and without projections
def test_prompts_of_a_batch_do_not_disturb_each_other(prompt_width):
    extractor = build(prompt_width)
    image, image_pe, sparse, dense = inputs(5, prompt_width)
    index = torch.tensor([0, 0, 1, 2, 2])
    together = extractor(image, image_pe, sparse, dense, index)
    assert together.shape == (5, 4, 12)
    for prompt, row in enumerate(index.tolist()):
        first = torch.zeros(1, dtype=torch.long)
        alone = extractor(image[row : row + 1], image_pe, sparse[prompt : prompt + 1], dense, first)
        torch.testing.assert_close(together[prompt], alone[0], atol=1e-5, rtol=1e-4)


def test_every_query_token_has_an_output_layer_of_its_own():
    extractor = build()
    image, image_pe, sparse, dense = inputs(2)
    index = torch.tensor([0, 1])
    before = extractor(image, image_pe, sparse, dense, index)
    with torch.no_grad():
        extractor.output_weight[2] = 0
        extractor.output_bias[2] = torch.arange(12.0)
    after = extractor(image, image_pe, sparse, dense, index)
    assert torch.equal(after[:, 2], torch.arange(12.0).expand(2, -1))
    assert torch.equal(after[:, [0, 1, 3]], before[:, [0, 1, 3]])


def test_projections_exist_only_between_different_widths():
    def projections(extractor):
        return {name.split(".")[0] for name, _ in extractor.named_parameters() if "projection" in name}

    assert projections(build(8)) == {"image_projection", "prompt_projection", "position_projection"}
    assert projections(build(16)) == {"image_projection"}


def test_query_tokens_can_start_where_image_cells_are():
    extractor, codes = build(), PromptEncoder(width=8).dense_pe((2, 2))
    extractor.place_query_tokens(codes)
    wanted = extractor.position_projection(codes[:, 1, 0])
    torch.testing.assert_close(extractor.query_tokens[2], wanted)
    with pytest.raises(ValueError, match="9 cells for 4 query tokens"):
        extractor.place_query_tokens(PromptEncoder(width=8).dense_pe((3, 3)))


def test_published_dense_output_is_dead_weight():
    extractor = build(dense_output=True)
    image, image_pe, sparse, dense = inputs(2)
    extractor(image, image_pe, sparse, dense, torch.tensor([0, 1])).sum().backward()
    idle = {name for name, parameter in extractor.named_parameters() if parameter.grad is None}
    assert idle == {"dense_output.weight", "dense_output.bias"}
    assert not any(parameter.requires_grad for parameter in extractor.dense_output.parameters())
