"""Dense attribute pretraining: what an image encoder should know about the object under each cell of its grid.

The small stand-in for the masked image modelling that EVA-02 comes from: every cell predicts whether an object
covers it, the object's attributes, and its box.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixel_llm.core.image_encoder import ImageEncoder
from pixel_llm.structures import Batch
from pixel_llm.tasks.base import Task
from pixel_llm.tasks.optimizer import AdamWSchedule


class DenseAttributes(nn.Module):
    """An image encoder with a linear layer per cell.

    attributes: number of values of each kind of attribute.
    """

    def __init__(self, encoder: ImageEncoder, attributes: list[int]) -> None:
        super().__init__()
        self.encoder = encoder
        self.attributes = attributes
        self.output = nn.Linear(encoder.channels, 1 + 4 + sum(attributes))

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Covered logits float[B, h, w], boxes float[B, h, w, 4] in [0, 1], attribute logits float[B, h, w, values]."""
        cells = self.output(self.encoder(images, sizes).permute(0, 2, 3, 1))
        covered, box, *kinds = cells.split([1, 4, *self.attributes], dim=-1)
        return covered[..., 0], (box + 1) / 2, kinds


class AttributePretraining(Task):
    """Learns attributes and boxes under each cell; reports the share of right attributes in [0, 1]."""

    core: DenseAttributes

    def __init__(self, core: DenseAttributes, optimizer: AdamWSchedule, box_weight: float = 5.0) -> None:
        super().__init__(core, optimizer)
        self.box_weight = box_weight

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self._step(batch, "train")

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._step(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._step(batch, "test")

    def _step(self, batch: Batch, stage: str) -> Tensor:
        covered, boxes, kinds = self.core(batch.images, batch.sizes)
        owner = owners(batch, (covered.shape[-2], covered.shape[-1]))
        hit = owner >= 0
        mine = owner[hit]
        assert batch.labels is not None
        labels = batch.labels[mine]
        coverage = F.binary_cross_entropy_with_logits(covered, hit.float())
        box = (boxes[hit] - batch.prompts.boxes[mine]).abs().mean() if len(mine) else boxes.sum() * 0
        attributes = torch.stack(
            [F.cross_entropy(logits[hit], labels[:, i], ignore_index=-1) for i, logits in enumerate(kinds)]
        ).nan_to_num()  # a batch may lack a kind altogether
        loss = coverage + self.box_weight * box + attributes.mean()
        values = {"loss": loss, "coverage": coverage, "box": box, "attributes": attributes.mean()}
        for i, logits in enumerate(kinds):
            known = labels[:, i] >= 0
            right = (logits[hit].argmax(-1) == labels[:, i])[known]
            values[f"right_{i}"] = right.float().mean() if len(right) else torch.zeros(())
        self.log_losses(values, stage, len(batch.keys))
        return loss


def owners(batch: Batch, grid: tuple[int, int]) -> Tensor:
    """int[B, h, w]: the prompt whose visible mask covers most of each cell, at least a tenth of it; -1 for none."""
    assert batch.masks is not None
    shares = F.adaptive_avg_pool2d(batch.masks.float(), grid)
    owner = torch.full((len(batch.keys), *grid), -1, device=shares.device)
    best = torch.full((len(batch.keys), *grid), 0.1, device=shares.device)
    for prompt, image in enumerate(batch.prompts.image_index.tolist()):
        more = shares[prompt] > best[image]
        best[image][more] = shares[prompt][more]
        owner[image][more] = prompt
    return owner
