"""The loss of masks at sampled points instead of at all pixels (PointRend, Kirillov et al. 2020; Mask2Former).

Memory and time then do not grow with the size of the canvas, and most points lie where the mask is uncertain.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from pixel_llm.losses import dice_loss, mean_count


@dataclass
class PointLoss:
    """total is differentiable; the others are its terms before weighting."""

    total: Tensor
    cross_entropy: Tensor
    dice: Tensor


@dataclass(frozen=True)
class PointMaskLoss:
    """Binary cross entropy and soft dice (sums of first powers, 1 added above and below) of sampled points.

    points: of each mask.  uncertain: share of them that are those with the logits nearest to 0 among `oversampling`
        times as many random ones; the rest is random.
    cross_entropy, dice: weights of the two terms.
    """

    points: int = 12544
    oversampling: float = 3.0
    uncertain: float = 0.75
    cross_entropy: float = 2.0
    dice: float = 0.5

    def __call__(self, logits: Tensor, truth: Tensor, sizes: Tensor) -> PointLoss:
        """The mean over the masks of all processes, all of which must call it; 0 where there is none.

        logits: float[S, h, w].  truth: bool[S, H, W]; both of the whole canvas.
        sizes: int[S, 2], height and width in pixels of the real part of each mask's canvas; no point lies beyond it.
        """
        masks = mean_count(torch.tensor(len(logits), device=logits.device))
        if not len(logits):
            nothing = logits.float().sum()  # it keeps the graph, so that all processes have the same gradients
            return PointLoss(nothing, nothing.detach(), nothing.detach())
        logits = logits.float()
        extent = sizes.flip(1) / sizes.new_tensor([truth.shape[2], truth.shape[1]])
        points = self.sample(logits.detach(), extent)
        found, target = values_at(logits, points), values_at(truth.float(), points)
        cross_entropy = F.binary_cross_entropy_with_logits(found, target, reduction="none").mean(1).sum() / masks
        dice = dice_loss(found[:, None], target[:, None]).sum() / masks
        total = self.cross_entropy * cross_entropy + self.dice * dice
        return PointLoss(total, cross_entropy.detach(), dice.detach())

    def sample(self, logits: Tensor, extent: Tensor) -> Tensor:
        """Draw points by torch's generator: float[S, points, 2], xy in [0, 1] of the canvas.

        logits: float[S, h, w].  extent: float[S, 2], the real part's share of the canvas along x and y.
        """
        chosen = int(self.uncertain * self.points)
        candidates = self._random(extent, int(self.oversampling * self.points))
        nearest = values_at(logits, candidates).abs().topk(chosen, dim=1, largest=False).indices
        uncertain = candidates.gather(1, nearest[..., None].expand(-1, -1, 2))
        return torch.cat([uncertain, self._random(extent, self.points - chosen)], dim=1)

    @staticmethod
    def _random(extent: Tensor, points: int) -> Tensor:
        return torch.rand(len(extent), points, 2, device=extent.device) * extent[:, None]


def values_at(masks: Tensor, points: Tensor) -> Tensor:
    """Bilinear values of float[S, h, w] at float[S, K, 2], xy in [0, 1] -> float[S, K].

    They are those of the mask resized to a fine canvas; so the outermost pixels reach to the edge of the canvas, where
    PointRend's fade to 0.
    """
    grid = 2 * points[:, None] - 1
    values = F.grid_sample(masks[:, None], grid, mode="bilinear", padding_mode="border", align_corners=False)
    return values[:, 0, 0]
