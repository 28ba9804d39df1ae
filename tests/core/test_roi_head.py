"""The second stage's arithmetic against torchvision, and what it reads off a map."""

import pytest
import torch
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import roi_align
from torchvision.ops.poolers import LevelMapper

from pixel_llm.core.roi_head import RoIHead, align, choose_level, decode_boxes, encode_boxes, match_boxes

STRIDES = torch.tensor([8.0, 16.0, 32.0, 64.0, 128.0])[:, None].expand(-1, 2)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def random_boxes(count: int, low: float = 0.0, high: float = 384.0) -> torch.Tensor:
    return torch.rand(count, 2, 2).sort(dim=1).values.flatten(1) * (high - low) + low


def test_inside_a_map_it_is_torchvisions_alignment():
    features, boxes, index = torch.randn(2, 3, 24, 24), random_boxes(20, 32, 352), torch.arange(20) % 2
    wanted = roi_align(features, torch.cat([index[:, None], boxes], 1), 7, 1 / 16, 2, aligned=True)
    torch.testing.assert_close(align([features], torch.full((1, 2), 16.0), boxes, index), wanted)


def test_a_map_of_positions_gives_the_middles_of_a_boxes_cells():
    """Also where the cells are not square, on each of several levels."""
    strides = torch.tensor([[16.0, 20.0], [32.0, 40.0]])
    maps = []
    for width, height in strides.tolist():
        x, y = (torch.arange(960 / side) * side + side / 2 for side in (width, height))
        maps.append(torch.stack(torch.meshgrid(x, y, indexing="xy"))[None])
    boxes = torch.tensor([[100.0, 120.0, 310.0, 260.0], [90.0, 100.0, 700.0, 650.0]])
    assert choose_level(boxes, strides).tolist() == [0, 1]
    got = align(maps, strides, boxes, torch.zeros(2, dtype=torch.long))
    steps = (torch.arange(7) + 0.5) / 7
    for (x0, y0, x1, y1), (x, y) in zip(boxes.tolist(), got, strict=True):
        torch.testing.assert_close(x, (x0 + steps * (x1 - x0)).expand(7, 7))
        torch.testing.assert_close(y, (y0 + steps * (y1 - y0))[:, None].expand(7, 7))


def test_beyond_the_border_there_is_nothing():
    box = torch.tensor([[-400.0, 0.0, -100.0, 32.0]])
    got = align([torch.ones(1, 1, 4, 4)], torch.full((1, 2), 8.0), box, torch.zeros(1))
    assert (got == 0).all()


def test_levels_are_torchvisions():
    boxes = random_boxes(200) ** 1.2
    mapper = LevelMapper(3, 7, canonical_scale=224, canonical_level=4, eps=1e-8)
    assert choose_level(boxes, STRIDES).tolist() == mapper([boxes]).tolist()
    assert len(choose_level(boxes, STRIDES).unique()) > 2


def test_corrections_are_torchvisions_and_turn_back():
    anchors, boxes = random_boxes(30) + torch.tensor([0, 0, 5.0, 5.0]), random_boxes(30) + torch.tensor([0, 0, 5.0, 5])
    coder = BoxCoder((10.0, 10.0, 5.0, 5.0))
    deltas = encode_boxes(boxes, anchors)
    torch.testing.assert_close(deltas, coder.encode_single(boxes, anchors))
    torch.testing.assert_close(decode_boxes(deltas, anchors), boxes, atol=1e-3, rtol=1e-4)
    wild = deltas * 20
    torch.testing.assert_close(decode_boxes(wild, anchors), coder.decode_single(wild, anchors), atol=1e-2, rtol=1e-4)


def test_a_box_matches_what_it_meets_best_from_the_threshold_on():
    true = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 8]])
    boxes = torch.tensor([[0.0, 0, 10, 9.5], [0, 0, 10, 8.5], [0, 0, 10, 4.8], [0, 0, 10, 4.7], [20, 20, 30, 30]])
    assert match_boxes(boxes, true, 0.6).tolist() == [0, 1, 1, -1, -1]
    assert match_boxes(boxes, true[:0], 0.6).tolist() == [-1] * 5


def test_boxes_are_judged_one_by_one_in_their_image():
    head = RoIHead(width=3, hidden=(8, 8))
    maps = [torch.randn(2, 3, 384 // side, 384 // side) for side in (8, 16, 32, 64, 128)]
    boxes, index = random_boxes(12), torch.arange(12) % 2
    logits, deltas = head(maps, STRIDES, boxes, index)
    for image in (0, 1):
        own = index == image
        alone = head([m[[image]] for m in maps], STRIDES, boxes[own], torch.zeros(6, dtype=torch.long))
        torch.testing.assert_close((logits[own], deltas[own]), alone)
    assert not torch.allclose(logits, head(maps, STRIDES, boxes, 1 - index)[0])
