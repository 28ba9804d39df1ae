"""Regions that a question names: which patches they take, and what is added to the embeddings of those."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixel_llm.structures import VisualPrompts


def painted(prompts: VisualPrompts, batch: int, grid: tuple[int, int], patch: int) -> Tensor:
    """The symbol of the region that each patch belongs to; -1 for none: int[B, N].

    A patch belongs to a region if any of its pixels does; to the smallest such region, or the last of equal ones.
    batch: number of images.  grid: (rows, columns) of the canvas.  patch: its side in pixels.
    Raises ValueError where the masks have another size than the canvas.
    """
    covered = _covered(prompts.masks, patch)
    if tuple(covered.shape[1:]) != tuple(grid):
        height, width = prompts.masks.shape[1:]
        raise ValueError(
            f"region masks of {height} x {width} pixels: the canvas has {grid[0]} x {grid[1]} patches of {patch}"
        )
    covered = covered.flatten(1)
    order = prompts.masks.flatten(1).sum(1).argsort(descending=True, stable=True)
    rank = order.argsort()  # the smallest region has the highest
    highest = rank.new_full((batch, covered.shape[1]), -1)
    highest.scatter_reduce_(
        0, prompts.image_index[:, None].expand_as(covered), torch.where(covered, rank[:, None], -1), "amax"
    )
    # behind the last rank stands what -1 picks
    return torch.cat([prompts.symbols[order], prompts.symbols.new_full((1,), -1)])[highest]


def unseen(prompts: VisualPrompts, painted: Tensor) -> Tensor:
    """The regions that are left without a patch, int[L] of the R.

    painted: int[B, N], see the function of this name.
    """
    return (painted[prompts.image_index] != prompts.symbols[:, None]).all(1).nonzero()[:, 0]


def check_symbols(prompts: VisualPrompts, known: int) -> None:
    """ValueError with one line for a region whose symbol a model with so many of them does not have."""
    if len(prompts.symbols) and (most := int(prompts.symbols.max())) >= known:
        raise ValueError(f"a region is called <Prompt{most}>, but the model has {known} such symbols")


def complaint(prompts: VisualPrompts, unseen: Tensor, patch: int) -> str:
    """One line about regions that are left without a patch of this side, and why."""
    reasons, taken = [], _covered(prompts.masks[unseen], patch).sum((1, 2))
    for region, patches in zip(unseen.tolist(), taken.tolist(), strict=True):
        why = f"smaller ones take its {patches} patches" if patches else "it is empty"
        reasons.append(f"<Prompt{int(prompts.symbols[region])}> of image {int(prompts.image_index[region])}: {why}")
    return f"regions that the model does not see: {'; '.join(reasons)}"


def _covered(masks: Tensor, patch: int) -> Tensor:
    """bool[R, H, W] -> bool[R, rows, columns], the patches with a pixel of each."""
    return F.max_pool2d(masks[:, None].float(), patch, ceil_mode=True)[:, 0] > 0


class VisualPromptInjection(nn.Module):
    """Adds to a patch what its region is called, before the first layer; nothing before training.

    width: D of the embeddings.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width, bias=False)
        nn.init.zeros_(self.linear.weight)

    def forward(self, painted: Tensor, rows: Tensor) -> Tensor:
        """What to add to the patches' embeddings: float[B, N, D], 0 where there is no region.

        painted: int[B, N], see the function of this name.  rows: float[K, D], embeddings of <Prompt0> to <PromptK-1>.
        """
        names = self.linear(rows)
        names = torch.cat([names, names.new_zeros(1, names.shape[1])])  # -1 picks the last one
        return names[painted]
