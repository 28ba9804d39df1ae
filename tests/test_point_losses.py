"""The point-sampled loss of masks against a loop, and the properties of PointRend's sampling."""

import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torch.nn import functional as F

from pixel_llm.point_losses import PointMaskLoss, values_at

CANVAS = (32, 40)
SIZES = torch.tensor([[32, 40], [16, 40], [32, 10]])


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def masks(number: int = 3) -> tuple[Tensor, Tensor]:
    return torch.randn(number, 8, 10, requires_grad=True), torch.rand(number, *CANVAS) > 0.6


def bilinear(mask: Tensor, x: float, y: float) -> float:
    """The value at xy in [0, 1] by the rule of image resizing: pixel centres at halves, the edge pixels continued."""
    height, width = mask.shape
    column = min(max(x * width - 0.5, 0), width - 1)
    row = min(max(y * height - 0.5, 0), height - 1)
    left, top = min(int(column), width - 2), min(int(row), height - 2)
    a, b = column - left, row - top
    corners = mask[top : top + 2, left : left + 2].tolist()
    return sum(corners[i][j] * (b if i else 1 - b) * (a if j else 1 - a) for i in range(2) for j in range(2))


def test_values_between_pixels() -> None:
    values, points = torch.randn(2, 5, 7), torch.rand(2, 50, 2)
    wanted = [[bilinear(mask, x, y) for x, y in row] for mask, row in zip(values, points.tolist(), strict=True)]
    torch.testing.assert_close(values_at(values, points), torch.tensor(wanted), atol=1e-5, rtol=1e-5)


def test_values_are_those_of_the_resized_mask() -> None:
    values = torch.randn(1, 6, 5)
    fine = F.interpolate(values[None], (24, 20), mode="bilinear", align_corners=False)[0]
    rows, columns = torch.meshgrid((torch.arange(24) + 0.5) / 24, (torch.arange(20) + 0.5) / 20, indexing="ij")
    points = torch.stack([columns, rows], dim=-1).reshape(1, -1, 2)
    torch.testing.assert_close(values_at(values, points), fine.flatten(1), atol=1e-5, rtol=1e-5)


def test_segment_by_segment_it_is_the_formula() -> None:
    logits, truth = masks()
    loss = PointMaskLoss(points=64, cross_entropy=3.0, dice=0.7)
    torch.manual_seed(5)
    got = loss(logits, truth, SIZES)
    torch.manual_seed(5)
    points = loss.sample(logits.detach(), SIZES.flip(1) / torch.tensor([40.0, 32.0]))
    cross_entropy = dice = 0.0
    for segment in range(3):
        entropy = overlap = sums = 0.0
        for x, y in points[segment].tolist():
            p = 1 / (1 + math.exp(-bilinear(logits[segment].detach(), x, y)))
            t = bilinear(truth[segment].float(), x, y)
            entropy -= t * math.log(p) + (1 - t) * math.log(1 - p)
            overlap, sums = overlap + p * t, sums + p + t
        cross_entropy += entropy / 64 / 3
        dice += (1 - (2 * overlap + 1) / (sums + 1)) / 3
    assert got.cross_entropy.item() == pytest.approx(cross_entropy, rel=1e-4)
    assert got.dice.item() == pytest.approx(dice, rel=1e-4)
    assert got.total.item() == pytest.approx(3.0 * cross_entropy + 0.7 * dice, rel=1e-4)


def test_right_masks_cost_nothing_and_wrong_ones_much() -> None:
    truth = torch.zeros(1, *CANVAS, dtype=torch.bool)
    truth[:, 8:24, 8:32] = True
    logits = torch.where(F.interpolate(truth[None].float(), scale_factor=0.25)[0] > 0, 20.0, -20.0)
    whole = torch.tensor([CANVAS])
    loss = PointMaskLoss(points=500, uncertain=0.0)
    right, wrong = loss(logits, truth, whole), loss(-logits, truth, whole)
    assert right.cross_entropy < 0.6  # what is left lies at the edge of a mask that is coarser than the truth
    assert right.dice < 0.1
    assert wrong.cross_entropy > 10
    assert wrong.dice > 0.8


def test_points_are_as_many_as_asked_and_lie_in_the_real_part() -> None:
    extent = SIZES.flip(1) / torch.tensor([40.0, 32.0])
    points = PointMaskLoss(points=101).sample(torch.randn(3, 8, 10), extent)
    assert points.shape == (3, 101, 2)
    assert (points >= 0).all()
    assert (points <= extent[:, None]).all()
    assert (points.amax(1) > 0.9 * extent).all()  # and in all of it


def test_the_uncertain_share_lies_where_the_logits_are_near_0_and_the_rest_anywhere() -> None:
    logits = torch.linspace(-4, 4, 64).expand(1, 64, 64)  # 0 in the middle, along x
    loss = PointMaskLoss(points=400, oversampling=3.0, uncertain=0.75)
    points = loss.sample(logits, torch.ones(1, 2))
    distance = (points[0, :, 0] - 0.5).abs()
    # the 300 nearest of 1,200 uniform ones: those within a quarter of the width
    assert distance[:300].max().item() == pytest.approx(0.125, abs=0.02)
    assert distance[300:].mean().item() == pytest.approx(0.25, abs=0.03)
    even = PointMaskLoss(points=400, uncertain=0.0).sample(logits, torch.ones(1, 2))
    assert (even[0, :, 0] - 0.5).abs().mean().item() == pytest.approx(0.25, abs=0.03)


def test_the_same_seed_gives_the_same_points() -> None:
    logits, truth = masks()
    loss = PointMaskLoss(points=50)

    def value(seed: int) -> float:
        torch.manual_seed(seed)
        return loss(logits, truth, SIZES).total.item()

    assert value(1) == value(1)
    assert value(1) != value(2)


def test_with_ever_more_points_it_becomes_the_loss_of_all_pixels() -> None:
    logits, truth = masks()
    loss = PointMaskLoss(points=60000, uncertain=0.0)(logits, truth, torch.tensor([CANVAS] * 3))
    fine = F.interpolate(logits[None], (320, 400), mode="bilinear")[0]
    target = F.interpolate(truth[None].float(), (320, 400), mode="bilinear")[0]
    wanted = F.binary_cross_entropy_with_logits(fine, target)
    p, t = fine.sigmoid(), target
    dice = (1 - 2 * (p * t).sum((1, 2)) / (p.sum((1, 2)) + t.sum((1, 2)))).mean()
    assert loss.cross_entropy.item() == pytest.approx(wanted.item(), rel=0.01)
    assert loss.dice.item() == pytest.approx(dice.item(), rel=0.01)


def test_without_masks_it_is_zero_and_keeps_the_graph() -> None:
    source = torch.randn(8, requires_grad=True)
    logits = source.expand(0, 10, 8)
    loss = PointMaskLoss(points=16)(logits, torch.zeros(0, *CANVAS, dtype=torch.bool), torch.zeros(0, 2).long())
    assert (loss.total, loss.cross_entropy, loss.dice) == (0, 0, 0)
    loss.total.backward()
    assert source.grad is not None
    assert not source.grad.any()


def test_gradients_push_towards_the_truth_also_from_half_precision() -> None:
    logits = torch.zeros(1, 8, 10, dtype=torch.bfloat16, requires_grad=True)
    truth = torch.zeros(1, *CANVAS, dtype=torch.bool)
    truth[:, :, 20:] = True
    loss = PointMaskLoss(points=2000)(logits, truth, torch.tensor([CANVAS]))
    assert loss.total.dtype == torch.float32
    loss.total.backward()
    assert (logits.grad[:, :, :4] > 0).all()
    assert (logits.grad[:, :, 6:] < 0).all()


def even_masks(values: list[float]) -> tuple[Tensor, Tensor, Tensor]:
    """Masks of one logit each, whose loss does not depend on the points; all pixels are true."""
    logits = torch.tensor(values)[:, None, None].expand(-1, 8, 10)
    return logits, torch.ones(len(values), *CANVAS, dtype=torch.bool), torch.tensor([CANVAS] * len(values)).view(-1, 2)


def loss_of_rank(rank: int, parts: list[list[float]], folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=len(parts))
    loss = PointMaskLoss(points=16)(*even_masks(parts[rank]))
    torch.save([loss.total, loss.cross_entropy, loss.dice], folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_one_without_masks_average_to_the_loss_of_one(tmp_path: Path) -> None:
    values = [-1.0, 0.5, 3.0]
    mp.spawn(loss_of_rank, ([values, []], tmp_path), nprocs=2)
    both = torch.tensor([torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]).mean(0)
    alone = PointMaskLoss(points=16)(*even_masks(values))
    torch.testing.assert_close(both, torch.stack([alone.total, alone.cross_entropy, alone.dice]))
