"""The detector: boxes come back from what says them, and rows of a batch belong to their images."""

from dataclasses import replace

import pytest
import torch
from torchvision.ops import batched_nms, box_iou

from pixel_llm.core.proposal_head import ProposalHead, suppress
from pixel_llm.detection_losses import center_targets, detection_loss
from pixel_llm.structures import DetectorOutputs, ImageFeatures, Regions

CANVAS = (96, 96)
SIZES = torch.tensor([[96, 96], [96, 60], [48, 96]])
RANGES = [(0.0, 20.0), (16.0, 40.0), (32.0, 1000.0)]
# a large, a middling and a small box; none; and one beside a box without an area
TRUTH = Regions(
    torch.tensor([0, 0, 0, 2, 2]),
    torch.tensor(
        [
            [0.02, 0.04, 0.98, 0.9],
            [0.5, 0.1, 0.8, 0.4],
            [0.1, 0.6, 0.2, 0.75],
            [0.3, 0.2, 0.3, 0.9],
            [0.2, 0.1, 0.6, 0.9],
        ]
    ),
)
EXISTS = torch.tensor([True, True, True, False, True])


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def make_head(**changes) -> ProposalHead:
    settings = {"width": 8, "upsampled_width": 4, "extra_levels": 0, "tower_depth": 1, "norm_groups": 2}
    limits = {"level_ranges": RANGES, "pre_nms": (200, 100), "post_nms": (60, 40), "samples": 24}
    return ProposalHead(6, **(settings | limits | changes))


def random_features(cells: int = 12) -> ImageFeatures:
    fused = torch.randn(len(SIZES), 6, cells, cells)
    return ImageFeatures(fused, fused, SIZES, CANVAS)


def sure(outputs: DetectorOutputs, truth: Regions) -> DetectorOutputs:
    """What a detector says that knows the truth, and of no cell but the centres' that it is one."""
    targets = center_targets(outputs, truth)
    return replace(outputs, heat_map=targets.peak.float().logit(1e-6), distances=targets.distances.clamp(min=0))


@pytest.mark.parametrize("cells", [12, 9])
def test_a_perfect_detector_finds_the_true_boxes(cells):
    """Also where the sizes of the levels do not halve: a cell is as large as the canvas and the map say."""
    head = make_head(score_threshold=0.9)
    with torch.no_grad():
        found = head.detect(sure(head(random_features(cells)), TRUTH))
    for image in (0, 1, 2):
        true = TRUTH.boxes[(TRUTH.image_index == image) & EXISTS]
        got = found.boxes[found.image_index == image]
        assert len(got) == len(true)
        if len(true):
            torch.testing.assert_close(got[box_iou(true, got).argmax(dim=1)], true, atol=1e-5, rtol=0)


def test_declared_strides_do_not_ask_for_the_canvas():
    head = make_head(strides="declared")
    assert head(random_features(12)).strides.tolist() == [[8.0] * 2, [16.0] * 2, [32.0] * 2]
    assert make_head()(random_features(12)).strides.tolist() == [[4.0] * 2, [8.0] * 2, [16.0] * 2]


@torch.no_grad()
@pytest.mark.parametrize("roi_hidden", [None, (16, 16)])
def test_what_is_found_lies_in_the_image_best_first_and_few_at_a_place(roi_hidden):
    head = make_head(roi_hidden=roi_hidden, score_threshold=0.0, detections=7)
    outputs = head(random_features())
    for found, most, overlap in ((head.propose(outputs, True), 60, 0.9), (head.detect(outputs), 7, 0.5)):
        assert found.scores is not None
        assert (found.image_index.diff() >= 0).all()
        assert ((found.boxes >= 0) & (found.boxes <= 1)).all()
        assert (found.boxes[:, 2:] > found.boxes[:, :2]).all()
        for image in range(len(SIZES)):
            own = found.image_index == image
            assert 0 < own.sum() <= most
            assert (found.scores[own].diff() <= 0).all()
            if roi_hidden is None and overlap == 0.9:
                continue  # proposals are compared before they are cut at the borders of their image
            inside = (found.boxes[own] % 1 > 0).all(1)
            overlaps = box_iou(found.boxes[own][inside], found.boxes[own][inside]).fill_diagonal_(0)
            assert overlaps.max() <= overlap + 1e-4 if overlaps.numel() else True


@torch.no_grad()
@pytest.mark.parametrize("roi_hidden", [None, (16, 16)])
def test_images_do_not_see_each_other(roi_hidden):
    head, features = make_head(roi_hidden=roi_hidden, score_threshold=0.0), random_features()
    together = head.detect(head(features))
    for image in range(len(SIZES)):
        fused = features.fused[[image]]
        alone = head.detect(head(ImageFeatures(fused, fused, SIZES[[image]], CANVAS)))
        own = together.image_index == image
        torch.testing.assert_close(together.boxes[own], alone.boxes, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(together.scores[own], alone.scores, atol=1e-5, rtol=1e-4)


def test_suppression_is_torchvisions_image_by_image():
    index = torch.arange(3).repeat_interleave(40)
    boxes, scores = torch.rand(120, 2, 2).sort(dim=1).values.flatten(1), torch.rand(120)
    kept = suppress(Regions(index, boxes, scores), boxes, 3, 0.5, 40)
    wanted = batched_nms(boxes, scores, index, 0.5)
    assert sorted(kept.scores.tolist()) == sorted(scores[wanted].tolist())
    few = suppress(Regions(index, boxes, scores), boxes, 3, 0.5, 4)
    for image in range(3):
        assert few.scores[few.image_index == image].tolist() == kept.scores[kept.image_index == image][:4].tolist()


def test_samples_are_matched_in_their_own_image():
    head = make_head()
    samples = head.sample(sure(head(random_features()), TRUTH), TRUTH)
    matched = samples.matched >= 0
    for image in range(len(SIZES)):
        own = samples.image_index == image
        assert own.sum() <= 24
        assert (matched[own].int().diff() <= 0).all()  # those with a match come first
        assert matched[own].sum() <= 6
    assert set(samples.matched.tolist()) <= {-1, 0, 1, 2, 4}  # never the box without an area
    assert {0, 1, 2, 4} & set(samples.matched.tolist())
    rows = samples.matched[matched]
    assert (TRUTH.image_index[rows] == samples.image_index[matched]).all()
    overlap = box_iou(samples.boxes, TRUTH.boxes)
    assert (overlap[matched].gather(1, rows[:, None]) >= 0.6).all()
    other = TRUTH.image_index[None] != samples.image_index[:, None]
    assert (overlap.masked_fill(other, 0)[~matched].nan_to_num() < 0.6).all()


def test_true_boxes_are_learnt_from_before_any_is_proposed():
    head = make_head(positive_fraction=1.0, samples=100)
    outputs = head(random_features())
    outputs = replace(outputs, distances=torch.zeros_like(outputs.distances))  # every box is empty
    samples = head.sample(outputs, TRUTH)
    assert samples.matched.tolist() == [0, 1, 2, 4]
    assert samples.boxes.tolist() == TRUTH.boxes[EXISTS].tolist()


@torch.no_grad()
def test_a_second_stage_that_knows_nothing_halves_the_square_of_the_score():
    head = make_head(roi_hidden=(16, 16), score_threshold=0.0)
    for layer in (head.roi_head.cls_score, head.roi_head.bbox_pred):
        layer.weight.zero_()
    outputs = head(random_features())
    judged, proposed = head.detect(outputs), head.propose(outputs, training=False)
    assert torch.isin(judged.scores, (proposed.scores / 2).sqrt()).all()
    surest = torch.stack([proposed.scores[proposed.image_index == i].max() for i in range(3)])
    got = torch.stack([judged.scores[judged.image_index == i].max() for i in range(3)])
    torch.testing.assert_close(got, (surest / 2).sqrt())


@pytest.mark.parametrize("roi_hidden", [None, (16, 16)])
@pytest.mark.parametrize("truth", [TRUTH, Regions(TRUTH.image_index[:0], TRUTH.boxes[:0])], ids=["boxes", "none"])
def test_every_parameter_has_a_gradient(roi_hidden, truth):
    """Also in a batch without any box: processes that train together wait for all of them."""
    head = make_head(roi_hidden=roi_hidden)
    outputs = head(random_features())
    loss = detection_loss(outputs, head.sample(outputs, truth), truth)
    loss.total.backward()
    assert loss.total.isfinite()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_a_head_of_the_wrong_number_of_levels_is_refused():
    with pytest.raises(ValueError, match="4 levels need as many level_ranges, not 3"):
        make_head(extra_levels=1)
