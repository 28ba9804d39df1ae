"""Resampling: what fits is left alone, what is linear stays so; the numbers are compared in tests/parity."""

import torch

from pixel_llm.core.resize import resize_map, resize_table


def test_fitting_sizes_are_left_alone():
    features, table = torch.randn(1, 2, 3, 4), torch.randn(5, 6)
    assert resize_map(features, (3, 4)) is features
    assert resize_table(table, 5) is table


def test_a_linear_table_stays_linear_inside():
    ramp = torch.arange(9.0)[:, None].expand(-1, 2)
    resized = resize_table(ramp, 27)
    assert torch.allclose(resized[2:-2].diff(dim=0), torch.tensor(1 / 3), atol=1e-6)
