"""Promptable segmentation: how SAM learns (Kirillov et al. 2023), for a small SAM that has no released weights."""

import torch
from torch import Tensor

from pixel_llm.coordinates import boxes_01_to_canvas_px
from pixel_llm.core.prompt_encoder import FOREGROUND
from pixel_llm.core.sam import Sam
from pixel_llm.losses import mask_loss
from pixel_llm.structures import Batch
from pixel_llm.tasks.base import Task
from pixel_llm.tasks.masks import real_part
from pixel_llm.tasks.optimizer import AdamWSchedule


class PromptableSegmentation(Task):
    """Learns masks from boxes and clicks: half of the objects are asked by a jittered box, half by a point in the mask.

    Reports the mean IoU of the masks, in [0, 1].
    """

    core: Sam

    def __init__(self, core: Sam, optimizer: AdamWSchedule) -> None:
        super().__init__(core, optimizer)

    def loss(self, batch: Batch, stage: str) -> Tensor:
        truth, index = batch.masks, batch.prompts.image_index
        assert truth is not None
        masks, iou = self.core(batch.images, batch.sizes, self._prompt_tokens(batch), index)
        valid = truth.flatten(1).any(1)
        loss = mask_loss(masks, iou, truth, valid, real_part(batch.sizes[index], truth.shape[-2:]))
        values = {"loss": loss.total, "focal": loss.focal, "dice": loss.dice, "iou_error": loss.iou}
        self.log_losses(values, stage, len(batch.keys))
        with torch.no_grad():
            resized = torch.nn.functional.interpolate(masks[:, :1], truth.shape[-2:], mode="bilinear")[:, 0] > 0
            score = (resized & truth).flatten(1).sum(1) / (resized | truth).flatten(1).sum(1).clamp(min=1)
            objects = int(valid.sum())
            self.log(f"{stage}/iou", score.sum() / max(objects, 1), batch_size=objects, sync_dist=stage != "train")
        return loss.total

    def _prompt_tokens(self, batch: Batch) -> Tensor:
        """float[P, 2, E]: the two corners of a box, or a point and a padding point."""
        canvas = (batch.images.shape[-2], batch.images.shape[-1])
        boxes = batch.prompts.boxes
        size = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
        jittered = (boxes + torch.randn_like(boxes) * 0.1 * size).clamp(0, 1)
        by_box = self.core.box_tokens(boxes_01_to_canvas_px(jittered, batch.sizes[batch.prompts.image_index]), canvas)
        assert batch.masks is not None
        points = random_points(batch.masks)
        labels = torch.tensor([FOREGROUND, -1], device=points.device).expand(len(points), 2)
        by_point = self.core.point_tokens(torch.stack([points, torch.zeros_like(points)], dim=1), labels, canvas)
        return torch.where(torch.rand(len(boxes), 1, 1, device=boxes.device) < 0.5, by_box, by_point)


def random_points(masks: Tensor) -> Tensor:
    """bool[P, H, W] -> float[P, 2] xy in pixels, uniform over each mask; the origin for an empty one."""
    counted = masks.flatten(1).cumsum(1)
    wanted = (torch.rand(len(masks), 1, device=masks.device) * counted[:, -1:]).floor() + 1
    chosen = torch.searchsorted(counted, wanted.long())[:, 0].clamp(max=counted.shape[1] - 1)
    chosen = chosen.masked_fill(counted[:, -1] == 0, 0)
    return torch.stack([chosen % masks.shape[-1], chosen // masks.shape[-1]], dim=1).float()
