"""Masks at the size of the original image: crop, resize, threshold, run lengths."""

import pytest
import torch
from pycocotools import mask as coco_mask
from torch.nn import functional as F

from pixel_llm.tasks.masks import mask_rles, original_masks


@pytest.mark.parametrize(
    ("size", "original"), [((52, 72), (61, 80)), ((96, 96), (10, 12)), ((96, 48), (200, 100)), ((4, 96), (7, 300))]
)
def test_equals_cutting_the_padding_off_and_resizing(size, original):
    torch.manual_seed(0)
    logits = torch.randn(1, 1, 24, 24)
    height, width = size[0] // 4, size[1] // 4
    (mask,) = original_masks(logits, torch.tensor([size]), torch.tensor([original]), (96, 96))
    wanted = F.interpolate(logits[:, :, :height, :width], original, mode="bilinear")[0, 0] > 0
    assert torch.equal(mask, wanted)


def test_a_canvas_that_ends_in_the_middle_of_a_cell():
    """The real part is 45 of 96 pixels, 11.25 cells; an edge at a third of it stays at a third."""
    logits = (15.0 - 4 * (torch.arange(24) + 0.5)).expand(1, 1, 24, 24)  # zero at 15 pixels
    (mask,) = original_masks(logits, torch.tensor([[96, 45]]), torch.tensor([[10, 900]]), (96, 96))
    assert torch.equal(mask, (torch.arange(900) < 300).expand(10, 900))


def test_run_lengths_are_of_each_image_and_decode_to_its_mask():
    torch.manual_seed(0)
    logits = torch.randn(3, 1, 16, 16)
    sizes, originals = torch.tensor([[64, 48], [40, 64], [64, 64]]), torch.tensor([[80, 60], [25, 40], [9, 9]])
    rles = mask_rles(logits, sizes, originals, (64, 64))
    for rle, mask in zip(rles, original_masks(logits, sizes, originals, (64, 64)), strict=True):
        assert isinstance(rle["counts"], str)
        assert rle["size"] == list(mask.shape)
        assert torch.equal(torch.from_numpy(coco_mask.decode(rle)).bool(), mask)


def test_nothing_is_an_empty_mask():
    (rle,) = mask_rles(torch.full((1, 1, 8, 8), -1.0), torch.tensor([[32, 32]]), torch.tensor([[5, 7]]), (32, 32))
    assert rle["size"] == [5, 7]
    assert coco_mask.area(rle) == 0
