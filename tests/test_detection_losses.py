"""A detector's losses against the formulas, written out object by object and cell by cell; and that they teach."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.ops import box_iou

from pixel_llm.core.centernet_head import cell_grid
from pixel_llm.core.conv_encoder import ConvEncoder
from pixel_llm.core.proposal_head import ProposalHead
from pixel_llm.detection_losses import center_targets, detection_loss, distance_loss, heat_map_loss, roi_loss
from pixel_llm.structures import DetectorOutputs, ImageFeatures, Regions, RoISamples

SIZES = torch.tensor([[96, 96], [96, 60], [48, 96]])
RANGES = torch.tensor([[0.0, 20.0], [16.0, 40.0], [32.0, 1000.0]])
STRIDES = torch.tensor([[4.0, 4.0], [8.0, 8.0], [16.0, 16.0]])
NOTHING = Regions(torch.zeros(0, dtype=torch.long), torch.zeros(0, 4))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def make_outputs() -> DetectorOutputs:
    maps = [torch.zeros(3, 1, side, side) for side in (24, 12, 6)]
    centers, levels = cell_grid(maps, STRIDES)
    cells = len(centers)
    heat_map, distances = torch.randn(3, cells) - 2, torch.rand(3, cells, 4) * 5
    return DetectorOutputs(maps, heat_map, distances, centers, levels, STRIDES, RANGES, SIZES, (96, 96))


def random_truth(count: int = 12) -> Regions:
    """Boxes of all sizes in the first and the last image."""
    corners = torch.rand(count, 2, 2).sort(dim=1).values.flatten(1)
    return Regions((torch.arange(count) >= count // 2).long() * 2, corners)


def pixels(truth: Regions, image: int) -> list[list[float]]:
    height, width = SIZES[image].tolist()
    own = truth.boxes[truth.image_index == image] * torch.tensor([width, height, width, height])
    return own.tolist()


def test_targets_are_those_of_the_definition():
    outputs, truth = make_outputs(), random_truth()
    targets = center_targets(outputs, truth)
    for image in range(3):
        for cell, ((x, y), level) in enumerate(zip(outputs.centers.tolist(), outputs.levels.tolist(), strict=True)):
            stride, (smallest, largest) = STRIDES[level, 0].item(), RANGES[level].tolist()
            heat, peak, nearest = 0.0, False, (math.inf, None)
            for x0, y0, x1, y1 in pixels(truth, image):
                middle_x, middle_y, suits = (x0 + x1) / 2, (y0 + y1) / 2, False
                suits = smallest <= math.hypot(x1 - x0, y1 - y0) / 2 <= largest
                columns, rows = (abs(a // stride - b // stride) for a, b in ((x, middle_x), (y, middle_y)))
                radius = max(2 / 81 * (x1 - x0) * (y1 - y0), 16)
                away = ((x - middle_x) ** 2 + (y - middle_y) ** 2) / radius
                here = suits and rows == columns == 0
                peak, heat = peak or here, max(heat, 1.0 if here else math.exp(-away))
                if suits and max(rows, columns) <= 1 and x0 < x < x1 and y0 < y < y1:
                    nearest = min(nearest, (0.0 if here else away, [x - x0, y - y0, x1 - x, y1 - y]))
            assert targets.heat_map[image, cell].item() == pytest.approx(heat, abs=1e-5)
            assert targets.peak[image, cell] == peak
            assert targets.inside[image, cell] == (nearest[1] is not None)
            if nearest[1]:
                wanted = [side / stride for side in nearest[1]]
                assert targets.distances[image, cell].tolist() == pytest.approx(wanted, abs=1e-4)


def test_the_heat_map_learns_from_centres_and_from_what_is_far_from_them():
    outputs = make_outputs()
    targets = center_targets(outputs, random_truth())
    p, total = outputs.heat_map.sigmoid(), 0.0
    for probability, heat, peak in zip(p.flatten(), targets.heat_map.flatten(), targets.peak.flatten(), strict=True):
        chance = probability.item()
        if peak:
            total -= 0.25 * (1 - chance) ** 2 * math.log(chance)
        else:
            total -= 0.75 * (1 - heat.item()) ** 4 * chance**2 * math.log(1 - chance)
    centers = sum(max(int(count), 1) for count in targets.peak.sum(1))
    assert heat_map_loss(outputs.heat_map, targets).item() == pytest.approx(total / centers, rel=1e-4)


def test_right_distances_cost_nothing_and_wrong_ones_their_overlap():
    outputs, truth = make_outputs(), random_truth()
    targets = center_targets(outputs, truth)
    assert distance_loss(targets.distances, targets).item() == pytest.approx(0, abs=1e-5)
    twice = targets.distances * 2  # a box of four times the area around the true one
    cells = targets.inside.sum(1)
    share = cells.sum() / cells.clamp(min=1).sum()
    assert distance_loss(twice, targets).item() == pytest.approx(0.75 * share.item(), abs=1e-4)


def test_boxes_without_an_area_are_no_boxes():
    outputs, truth = make_outputs(), random_truth()
    empty = torch.tensor([[0.2, 0.3, 0.2, 0.8], [0.0, 0.0, 0.0, 0.0], [0.6, 0.5, 0.4, 0.7]])
    index = torch.tensor([0, 1, 2])
    order = torch.cat([truth.image_index, index]).argsort(stable=True)
    more = Regions(torch.cat([truth.image_index, index])[order], torch.cat([truth.boxes, empty])[order])
    assert detection_loss(outputs, None, more).total == detection_loss(outputs, None, truth).total
    assert detection_loss(outputs, None, Regions(index, empty)).total == detection_loss(outputs, None, NOTHING).total


def test_without_boxes_only_the_background_is_learnt():
    outputs = make_outputs()
    loss = detection_loss(outputs, None, NOTHING)
    p = outputs.heat_map.sigmoid()
    wanted = (0.75 * p**2 * F.softplus(outputs.heat_map)).sum() / 3
    assert loss.heat_map.item() == pytest.approx(wanted.item(), rel=1e-4)
    assert loss.box == 0
    assert loss.total.item() == pytest.approx(0.5 * wanted.item(), rel=1e-4)


def test_images_have_their_own_targets():
    outputs, truth = make_outputs(), random_truth()
    together = center_targets(outputs, truth)
    for image in range(3):
        own = truth.image_index == image
        alone = replace(outputs, heat_map=outputs.heat_map[[image]], sizes=SIZES[[image]])
        targets = center_targets(alone, Regions(truth.image_index[own] * 0, truth.boxes[own]))
        torch.testing.assert_close(together.heat_map[[image]], targets.heat_map)
        assert (together.inside[[image]] == targets.inside).all()


def test_the_second_stage_corrects_only_what_matches():
    matched = torch.tensor([3, -1, 0, -1, -1])
    samples = RoISamples(
        torch.zeros(5), torch.rand(5, 4), matched, torch.randn(5, 2), torch.randn(5, 4), torch.randn(5, 4)
    )
    roi_class, roi_box = roi_loss(samples)
    torch.testing.assert_close(roi_class, F.cross_entropy(samples.class_logits, torch.tensor([1, 0, 1, 0, 0])))
    rows = [0, 2]
    torch.testing.assert_close(roi_box, F.l1_loss(samples.deltas[rows], samples.target_deltas[rows]) * 4 * 2 / 5)
    assert roi_loss(replace(samples, class_logits=None, deltas=None)) == (0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("roi_hidden", [None, (32, 32)])
def test_a_few_pictures_are_learnt_by_heart(roi_hidden):
    """Rectangles of random colours, one of them large, are all found and nothing else is."""
    images, truth = _pictures(6)
    model = nn.ModuleDict(
        {
            "encoder": ConvEncoder(width=32, stride=8, blocks=1),
            "head": ProposalHead(
                32, width=32, scales=(1.0, 0.5), extra_levels=0, tower_depth=1, norm_groups=8, samples=32,
                level_ranges=[(0, 40), (32, 1000)], roi_hidden=roi_hidden, pre_nms=(100, 100), post_nms=(50, 50),
            ),
        }
    )  # fmt: skip
    sizes = torch.full((len(images), 2), 96)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)

    def look() -> DetectorOutputs:
        features = model["encoder"](images, sizes)
        return model["head"](ImageFeatures(features, features, sizes, (96, 96)))

    for _ in range(150):
        outputs = look()
        loss = detection_loss(outputs, model["head"].sample(outputs, truth), truth)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
    with torch.no_grad():
        found = model["head"].detect(look())
    for image in range(len(images)):
        true = truth.boxes[truth.image_index == image]
        boxes = found.boxes[found.image_index == image][: len(true)]
        assert box_iou(true, boxes).amax(dim=1).min() > 0.5


def _pictures(count: int) -> tuple[torch.Tensor, Regions]:
    """Grey canvases of 96 pixels with a large and two small rectangles that do not overlap."""
    images, boxes = torch.full((count, 3, 96, 96), 128.0), []
    for image in images:
        for left, top, side in ((0, 0, 48), (60, 4, 30), (4, 60, 30)):
            width, height = torch.randint(side * 2 // 3, side, (2,)).tolist()
            x, y = left + int(torch.randint(0, 6, ())), top + int(torch.randint(0, 6, ()))
            image[:, y : y + height, x : x + width] = torch.rand(3, 1, 1) * 255
            boxes.append([x, y, x + width, y + height])
    index = torch.arange(count).repeat_interleave(3)
    return images, Regions(index, torch.tensor(boxes) / 96)
