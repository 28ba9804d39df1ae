"""Where the objects of an image are: a feature pyramid, CenterNet's head, and perhaps a second stage.

CenterNet2 (Zhou et al. 2021) without classes, as GRiT has it: the first stage proposes boxes, the second one judges
and corrects them. The paper describes the first stage alone; the published code has both.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn
from torchvision.ops import nms

from pixel_llm.coordinates import boxes_01_to_canvas_px, boxes_canvas_px_to_01
from pixel_llm.core.centernet_head import CenterNetHead, cell_grid, decode_distances
from pixel_llm.core.feature_pyramid import SimpleFeaturePyramid
from pixel_llm.core.roi_head import RoIHead, decode_boxes, encode_boxes, match_boxes
from pixel_llm.structures import DetectorOutputs, ImageFeatures, Regions, RoISamples

# half diagonals of the objects of each level, in pixels of a canvas of 384
LEVEL_RANGES = ((0.0, 40.0), (32.0, 80.0), (64.0, 160.0), (128.0, 320.0), (256.0, 50000.0))
_DECLARED_STRIDE = 8  # of the finest level


class ProposalHead(nn.Module):
    """Image features -> boxes of objects, with scores; the defaults are the published ones, without the second stage.

    channels: of the fused features.
    width, scales, upsampled_width, extra_levels: of the pyramid, see `SimpleFeaturePyramid`.
    tower_depth, norm_groups: see `CenterNetHead`.
    level_ranges: for each level from fine to coarse the half diagonals (smallest, largest) of its objects, in pixels
        of the canvas.
    strides: "real" takes a cell's size from the canvas. "declared" takes 8, 16, 32, .. pixels whatever the canvas, as
        the published code does (14 % more than the cells of its features measure), for its weights.
    roi_hidden: widths of the two layers of the second stage; None leaves it out.
    pre_nms, post_nms: how many cells are looked at, and how many proposals kept, in (training, testing).
    proposal_nms, detection_nms: above this IoU with a box of higher score, proposals and detections go.
    match_iou: from this IoU on a sampled box is of a true one.
    samples, positive_fraction: how many boxes of an image are learnt from, and at most which part of them matched.
    score_threshold: below it, nothing counts as detected.  detections: how many of an image are kept.
    """

    def __init__(
        self,
        channels: int,
        width: int = 256,
        scales: Sequence[float] = (2.0, 1.0, 0.5),
        upsampled_width: int = 384,
        extra_levels: int = 2,
        tower_depth: int = 4,
        norm_groups: int = 32,
        level_ranges: Sequence[tuple[float, float]] = LEVEL_RANGES,
        strides: Literal["real", "declared"] = "real",
        roi_hidden: tuple[int, int] | None = None,
        pre_nms: tuple[int, int] = (2000, 1000),
        post_nms: tuple[int, int] = (1000, 256),
        proposal_nms: float = 0.9,
        match_iou: float = 0.6,
        samples: int = 512,
        positive_fraction: float = 0.25,
        score_threshold: float = 0.05,
        detection_nms: float = 0.5,
        detections: int = 100,
    ) -> None:
        super().__init__()
        levels = len(scales) + extra_levels
        if len(level_ranges) != levels:
            raise ValueError(f"{levels} levels need as many level_ranges, not {len(level_ranges)}")
        self.pyramid = SimpleFeaturePyramid(channels, width, scales, upsampled_width, extra_levels)
        self.centernet = CenterNetHead(width, levels, tower_depth, norm_groups)
        self.roi_head = None if roi_hidden is None else RoIHead(width, roi_hidden)
        self.level_ranges = [tuple(level) for level in level_ranges]
        self.strides = strides
        self.pre_nms = pre_nms
        self.post_nms = post_nms
        self.proposal_nms = proposal_nms
        self.match_iou = match_iou
        self.samples = samples
        self.positive_fraction = positive_fraction
        self.score_threshold = score_threshold
        self.detection_nms = detection_nms
        self.detections = detections

    def forward(self, features: ImageFeatures) -> DetectorOutputs:
        """Look at B images; everything below works from what this returns."""
        pyramid = self.pyramid(features.fused)
        heat_map, distances = self.centernet(pyramid)
        strides = self._strides(pyramid, features.canvas)
        centers, levels = cell_grid(pyramid, strides)
        return DetectorOutputs(
            pyramid=pyramid,
            heat_map=heat_map,
            distances=distances,
            centers=centers,
            levels=levels,
            strides=strides,
            level_ranges=strides.new_tensor(self.level_ranges),
            sizes=features.sizes,
            canvas=features.canvas,
        )

    @torch.no_grad()
    def propose(self, outputs: DetectorOutputs, training: bool) -> Regions:
        """The boxes of the most likely centres, few of them twice; more in training than in testing."""
        candidates, kept = (limits[0 if training else 1] for limits in (self.pre_nms, self.post_nms))
        return _propose(outputs, candidates, self.proposal_nms, kept)

    @torch.no_grad()
    def detect(self, outputs: DetectorOutputs) -> Regions:
        """The objects found in each image, each once; with a second stage as it judges and corrects them."""
        if self.roi_head is None:
            found = _propose(outputs, self.pre_nms[1], self.detection_nms, self.detections)
            return _above(found, self.score_threshold)
        proposals = self.propose(outputs, training=False)
        sizes = outputs.sizes[proposals.image_index]
        anchors = boxes_01_to_canvas_px(proposals.boxes, sizes)
        logits, deltas = self.roi_head(outputs.pyramid, outputs.strides, anchors, proposals.image_index)
        boxes = boxes_canvas_px_to_01(decode_boxes(deltas, anchors), sizes)
        scores = (logits.softmax(-1)[:, 1] * proposals.scores).sqrt()
        refined = _above(Regions(proposals.image_index, boxes, scores), self.score_threshold)
        pixels = boxes_01_to_canvas_px(refined.boxes, outputs.sizes[refined.image_index])
        return suppress(refined, pixels, len(outputs.sizes), self.detection_nms, self.detections)

    def sample(self, outputs: DetectorOutputs, truth: Regions) -> RoISamples:
        """Boxes to learn from, drawn from the proposals and the true boxes; with a second stage what it says of them.

        truth: the true boxes of the same images; `matched` counts its rows. Draws from torch's global generator.
        """
        proposals = self.propose(outputs, training=True)
        parts = [self._sample_image(proposals, truth, image) for image in range(len(outputs.sizes))]
        boxes, matched = (torch.cat(values) for values in zip(*parts, strict=True))
        counts = torch.tensor([len(part[0]) for part in parts], device=boxes.device)
        index = torch.arange(len(parts), device=boxes.device).repeat_interleave(counts)
        samples = RoISamples(index, boxes, matched)
        return samples if self.roi_head is None else self._judge(self.roi_head, outputs, samples, truth)

    @torch.no_grad()
    def _sample_image(self, proposals: Regions, truth: Regions, image: int) -> tuple[Tensor, Tensor]:
        """Boxes of one image, those with a match first, and the row of `truth` that each matches, or -1."""
        rows = ((truth.image_index == image) & _has_area(truth.boxes)).nonzero()[:, 0]
        true = truth.boxes[rows]
        boxes = torch.cat([proposals.boxes[proposals.image_index == image], true])
        match = match_boxes(boxes, true, self.match_iou)
        matched = torch.cat([rows, rows.new_tensor([-1])])[match]  # no match, -1, stays what it is
        positive, negative = ((matched >= 0).nonzero()[:, 0], (matched < 0).nonzero()[:, 0])
        positive = _draw(positive, int(self.samples * self.positive_fraction))
        negative = _draw(negative, self.samples - len(positive))
        kept = torch.cat([positive, negative])
        return boxes[kept], matched[kept]

    def _judge(self, roi_head: RoIHead, outputs: DetectorOutputs, samples: RoISamples, truth: Regions) -> RoISamples:
        sizes = outputs.sizes[samples.image_index]
        anchors = boxes_01_to_canvas_px(samples.boxes, sizes)
        logits, deltas = roi_head(outputs.pyramid, outputs.strides, anchors, samples.image_index)
        target, positive = torch.zeros_like(anchors), samples.matched >= 0
        true = boxes_01_to_canvas_px(truth.boxes[samples.matched[positive]], sizes[positive])
        target[positive] = encode_boxes(true, anchors[positive])
        return replace(samples, class_logits=logits, deltas=deltas, target_deltas=target)

    def _strides(self, pyramid: Sequence[Tensor], canvas: tuple[int, int]) -> Tensor:
        if self.strides == "declared":
            sides = [(_DECLARED_STRIDE * 2.0**level,) * 2 for level in range(len(pyramid))]
        else:
            sides = [(canvas[1] / level.shape[-1], canvas[0] / level.shape[-2]) for level in pyramid]
        return torch.tensor(sides, device=pyramid[0].device)


def _propose(outputs: DetectorOutputs, candidates: int, iou: float, kept: int) -> Regions:
    """The boxes of the `candidates` most likely centres of each image, after non-maximum suppression."""
    scores, cells = outputs.heat_map.sigmoid().topk(min(candidates, outputs.heat_map.shape[1]), dim=1)
    distances = outputs.distances.gather(1, cells[..., None].expand(-1, -1, 4))
    strides = outputs.strides[outputs.levels[cells]]
    pixels = decode_distances(outputs.centers[cells], distances, strides).flatten(0, 1)
    index = torch.arange(len(cells), device=cells.device).repeat_interleave(cells.shape[1])
    found = Regions(index, boxes_canvas_px_to_01(pixels, outputs.sizes[index]), scores.flatten())
    found = suppress(found, pixels, len(cells), iou, kept)
    return _above(found, 0.0)


def suppress(regions: Regions, pixels: Tensor, images: int, iou: float, kept: int) -> Regions:
    """Non-maximum suppression within each image: at most `kept` boxes of each, in descending order of their scores.

    pixels: float[R, 4], the boxes in pixels.  images: how many there are.
    """
    assert regions.scores is not None
    rows = []
    for image in range(images):
        own = (regions.image_index == image).nonzero()[:, 0]
        rows.append(own[nms(pixels[own], regions.scores[own], iou)[:kept]])
    return _select(regions, torch.cat(rows))


def _select(regions: Regions, rows: Tensor) -> Regions:
    assert regions.scores is not None
    return Regions(regions.image_index[rows], regions.boxes[rows], regions.scores[rows])


def _above(regions: Regions, threshold: float) -> Regions:
    """The boxes with an area and at least this score."""
    assert regions.scores is not None
    return _select(regions, (regions.scores >= threshold) & _has_area(regions.boxes))


def _has_area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] > boxes[:, :2]).all(dim=1)


def _draw(rows: Tensor, count: int) -> Tensor:
    """At most `count` of the rows, drawn at random and in their order."""
    return rows[torch.randperm(len(rows), device=rows.device)[:count].sort().values]
