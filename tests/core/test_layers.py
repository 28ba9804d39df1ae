"""The shared layers against other implementations, and stochastic depth by its definition."""

import torch
from segment_anything.modeling.common import LayerNorm2d as TheirLayerNorm2d
from torch import nn

from pixel_llm.core.layers import LayerNorm2d, StochasticDepth, attend


def test_layer_norm_over_channels():
    torch.manual_seed(0)
    theirs, ours = TheirLayerNorm2d(6), LayerNorm2d(6)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter)
    ours.load_state_dict(theirs.state_dict())
    features = torch.randn(2, 6, 3, 5)
    torch.testing.assert_close(ours(features), theirs(features))


def test_attention_equals_torch():
    torch.manual_seed(0)
    query, memory = torch.randn(2, 3, 8), torch.randn(2, 5, 8)
    theirs = nn.MultiheadAttention(8, 2, batch_first=True)
    nn.init.eye_(theirs.out_proj.weight)
    projected = [
        nn.functional.linear(values, weight)
        for values, weight in zip((query, memory, memory), theirs.in_proj_weight.chunk(3), strict=True)
    ]
    wanted, _ = theirs(query, memory, memory)
    torch.testing.assert_close(attend(*projected, heads=2), wanted)


def test_stochastic_depth_drops_whole_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    layer, branch = StochasticDepth(0.25), torch.ones(4000, 2, 3)
    dropped = layer(branch)
    per_sample = dropped.flatten(1)
    assert torch.equal(per_sample.amin(1), per_sample.amax(1))
    assert set(per_sample.unique().tolist()) == {0.0, torch.tensor(4 / 3).item()}
    assert abs(dropped.mean().item() - 1) < 0.05
    assert layer.eval()(branch) is branch
