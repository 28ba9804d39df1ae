"""Fusing feature maps against JAX's numbers."""

import numpy as np
import torch

from pixel_llm.core.feature_fusion import fuse_features


def test_fusing_resizes_to_the_largest_grid_as_jax_does(shared):
    with np.load(shared / "golden/published/resize.npz") as golden:
        small = torch.from_numpy(golden["bicubic_up_24_27/in/x"]).permute(0, 3, 1, 2)
        wanted = torch.from_numpy(golden["bicubic_up_24_27/out/y"]).permute(0, 3, 1, 2)
    large = torch.randn(1, 5, 27, 27)
    fused = fuse_features([large, small])
    assert torch.equal(fused[:, :5], large)
    torch.testing.assert_close(fused[:, 5:], wanted, atol=1e-5, rtol=0)
