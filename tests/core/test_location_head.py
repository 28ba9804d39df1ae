"""The location head against the formula, layer by layer."""

import torch
from torch.nn import functional as F

from pixel_llm.core.location_head import LocationHead


def test_formula():
    torch.manual_seed(0)
    head, hidden = LocationHead(width=8, hidden=6, depth=3), 3 * torch.randn(2, 5, 8)
    values = (hidden - hidden.mean(-1, keepdim=True)) / hidden.var(-1, correction=0, keepdim=True).sqrt()
    first, second, last = head.mlp.layers
    raw = last(F.gelu(second(F.gelu(first(values)))))
    got = head(hidden)
    assert got.shape == (2, 5, 2, 2)
    torch.testing.assert_close(got[..., 1, 0], (raw[..., 2] + 1) / 2, atol=1e-5, rtol=1e-4)


def test_nothing_keeps_a_point_inside_the_image():
    head = LocationHead(width=8, hidden=6)
    with torch.no_grad():
        head.mlp.layers[-1].weight.zero_()
        head.mlp.layers[-1].bias.copy_(torch.tensor([-1.0, 0.0, 1.0, 3.0]))
    assert head(torch.randn(8)).tolist() == [[0.0, 0.5], [1.0, 2.0]]


def test_extra_channels_are_held_but_not_read():
    head = LocationHead(width=8, hidden=6, extra_channels=2)
    hidden = torch.randn(3, 8)
    before = head(hidden)
    with torch.no_grad():
        head.mlp.layers[-1].bias[[2, 3, 6, 7]] += 1
    assert head.mlp.layers[-1].out_features == 8
    assert torch.equal(head(hidden), before)


def test_coordinates_keep_their_precision_under_autocast():
    torch.manual_seed(0)
    head, hidden = LocationHead(width=8, hidden=6), torch.randn(50, 8).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        points = head(hidden)
    assert torch.equal(points, head(hidden.float()))
