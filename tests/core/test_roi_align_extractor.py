import pytest
import torch
from torch.nn import functional as F

from pixel_llm.core.prompt_encoder import PromptEncoder
from pixel_llm.core.roi_align_extractor import RoIAlignExtractor
from pixel_llm.structures import ImageFeatures, Prompts


@pytest.fixture
def extractor():
    torch.manual_seed(0)
    return RoIAlignExtractor(image_channels=5, width=7, output_width=6, cells=4)


def features_of(fused):
    sizes = torch.tensor([[64, 64], [64, 48]])
    return ImageFeatures(fused, fused, sizes, (64, 64))


def test_a_box_of_whole_cells_is_pooled_as_bilinear_samples_of_them(extractor):
    torch.manual_seed(1)
    fused = torch.randn(2, 5, 16, 16)  # a cell is 4 pixels
    boxes = torch.tensor([[0.25, 0.25, 0.5, 0.5]])  # cells 4..8 of the first image: one cell a bin
    tokens = extractor.extract(features_of(fused), Prompts(torch.tensor([0]), boxes), PromptEncoder(width=16))
    fine = F.interpolate(fused[:1], scale_factor=2, mode="bilinear")  # samples at quarters of a cell, as two a bin are
    pooled = F.avg_pool2d(fine, 2)[0, :, 4:8, 4:8]
    wanted = extractor.layers(pooled.flatten(1).T) + extractor.cell_tokens
    torch.testing.assert_close(tokens[0], wanted)


def test_nothing_outside_the_box_is_seen_and_boxes_are_of_the_real_part(extractor):
    fused = torch.randn(2, 5, 16, 16)
    prompts = Prompts(torch.tensor([1]), torch.tensor([[0.0, 0.0, 0.5, 1.0]]))
    changed = fused.clone()
    changed[1, :, :, 7:] += 1  # the image is 12 cells wide: its left half ends at cell 6
    codes = PromptEncoder(width=16)
    before, after = (extractor.extract(features_of(f), prompts, codes) for f in (fused, changed))
    torch.testing.assert_close(before, after)
    changed[1, :, :, 5] += 1
    assert not torch.allclose(before, extractor.extract(features_of(changed), prompts, codes))


def test_clicks_are_refused(extractor):
    clicks = Prompts(torch.tensor([0]), torch.zeros(1, 4), points=torch.zeros(1, 1, 2), point_labels=torch.ones(1, 1))
    with pytest.raises(ValueError, match="needs boxes"):
        extractor.extract(features_of(torch.randn(2, 5, 16, 16)), clicks, PromptEncoder(width=16))
