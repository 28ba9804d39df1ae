"""The feature pyramid: which sizes come out, and from which cells each of them is made."""

import pytest
import torch

from pixel_llm.core.feature_pyramid import SimpleFeaturePyramid


@pytest.mark.parametrize(
    ("scales", "extra", "sizes"),
    [((2.0, 1.0, 0.5), 2, [(54, 36), (27, 18), (13, 9), (7, 5), (4, 3)]), ((1.0, 0.5), 0, [(27, 18), (13, 9)])],
)
def test_levels_go_from_fine_to_coarse(scales, extra, sizes):
    pyramid = SimpleFeaturePyramid(6, width=4, scales=scales, upsampled_width=2, extra_levels=extra)
    maps = pyramid(torch.randn(2, 6, 27, 18))
    assert [tuple(m.shape) for m in maps] == [(2, 4, *size) for size in sizes]


def test_every_level_sees_the_same_place():
    """Only what is near a changed cell changes, on each level where that cell lies on it."""
    torch.manual_seed(0)
    pyramid = SimpleFeaturePyramid(6, width=4, upsampled_width=2, extra_levels=1)
    features = torch.randn(1, 6, 32, 32)
    changed = features.clone()
    changed[..., 8, 24] += 3
    reach = 1  # of a 3x3 convolution, in cells
    for before, after, scale in zip(pyramid(features), pyramid(changed), (2, 1, 0.5, 0.25), strict=True):
        rows, columns = ((after - before).abs().amax((0, 1)) > 1e-6).nonzero().unbind(1)
        for place, cells in ((8, rows), (24, columns)):
            assert len(cells)
            assert int(place * scale) - reach - (scale < 0.5) <= cells.min()
            assert cells.max() < (place + 1) * scale + reach + (scale < 0.5) + 1


def test_unknown_scales_are_named():
    with pytest.raises(ValueError, match=r"0\.25"):
        SimpleFeaturePyramid(6, scales=(1.0, 0.25))
