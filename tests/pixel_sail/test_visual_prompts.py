"""Regions as patches, against painting them one after the other, and what they add to the embeddings."""

import pytest
import torch

from pixel_llm.pixel_sail.visual_prompts import VisualPromptInjection, check_symbols, complaint, painted, unseen
from pixel_llm.structures import VisualPrompts

PATCH, GRID = 4, (5, 6)


def regions(*boxes: tuple[int, int, int, int, int, int]) -> VisualPrompts:
    """Filled boxes (image, symbol, x0, y0, x1, y1) in pixels."""
    masks = torch.zeros(len(boxes), GRID[0] * PATCH, GRID[1] * PATCH, dtype=torch.bool)
    for mask, (_, _, x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = True
    numbers = torch.tensor([box[:2] for box in boxes], dtype=torch.long).reshape(-1, 2)
    return VisualPrompts(numbers[:, 0], numbers[:, 1], masks)


def test_equals_painting_one_after_the_other_the_largest_first() -> None:
    generator = torch.Generator().manual_seed(0)
    boxes = []
    for image in range(3):
        for symbol in torch.randperm(15, generator=generator)[:6].tolist():
            x0, y0 = torch.randint(0, 16, (2,), generator=generator).tolist()
            width, height = torch.randint(1, 12, (2,), generator=generator).tolist()
            boxes.append((image, symbol, x0, y0, x0 + width, y0 + height))
    prompts = regions(*boxes)
    wanted = torch.full((3, *GRID), -1)
    areas = prompts.masks.sum((1, 2)).tolist()
    for region in sorted(range(len(boxes)), key=lambda region: -areas[region]):
        for row in range(GRID[0]):
            for column in range(GRID[1]):
                pixels = prompts.masks[region, row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH]
                if pixels.any():
                    wanted[prompts.image_index[region], row, column] = prompts.symbols[region]
    assert painted(prompts, 3, GRID, PATCH).tolist() == wanted.flatten(1).tolist()


def test_one_pixel_takes_a_patch_and_an_image_without_regions_none() -> None:
    got = painted(regions((1, 3, 11, 7, 12, 8)), 2, GRID, PATCH).reshape(2, *GRID)
    assert got[1, 1, 2] == 3
    assert (got == -1).sum() == got.numel() - 1
    assert (painted(regions(), 2, GRID, PATCH) == -1).all()


def test_a_region_may_cover_everything() -> None:
    assert (painted(regions((0, 4, 0, 0, 24, 20)), 1, GRID, PATCH) == 4).all()


def test_a_canvas_that_ends_within_a_patch_has_a_last_one_all_the_same() -> None:
    masks = torch.zeros(1, 18, 22, dtype=torch.bool)
    masks[0, 17, 21] = True
    got = painted(VisualPrompts(torch.tensor([0]), torch.tensor([2]), masks), 1, GRID, PATCH)
    assert got.tolist() == [[-1] * 29 + [2]]


def test_a_region_that_is_empty_or_loses_all_its_patches_is_said_in_one_line() -> None:
    prompts = regions((0, 5, 0, 0, 4, 4), (0, 6, 1, 1, 2, 2), (0, 9, 8, 8, 16, 16), (1, 7, 0, 0, 0, 0))
    got = painted(prompts, 2, GRID, PATCH)
    assert (got == 6).sum() == 1
    assert not (got == 5).any()
    assert unseen(prompts, got).tolist() == [0, 3]
    said = complaint(prompts, unseen(prompts, got), PATCH)
    assert "\n" not in said
    assert "<Prompt5> of image 0: smaller ones take its 1 patches" in said
    assert "<Prompt7> of image 1: it is empty" in said
    assert "<Prompt6>" not in said
    assert "<Prompt9>" not in said


def test_regions_that_can_be_seen_are_not_lost() -> None:
    for prompts in (regions((0, 5, 0, 0, 8, 8), (0, 6, 1, 1, 2, 2)), regions()):
        assert not len(unseen(prompts, painted(prompts, 1, GRID, PATCH)))


def test_masks_of_another_size_are_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match=r"^region masks of 20 x 24 pixels: .* 5 x 5 patches of 4$"):
        painted(regions((0, 0, 0, 0, 4, 4)), 1, (5, 5), PATCH)


def test_a_patch_gets_the_mapped_name_of_its_region_and_the_others_exactly_nothing() -> None:
    torch.manual_seed(0)
    injection, rows = VisualPromptInjection(8), torch.randn(5, 8, requires_grad=True)
    where = torch.tensor([[-1, 0, 4, -1], [4, -1, -1, -1]])
    assert not injection(where, rows).any()  # before training a model is what it was without
    torch.nn.init.normal_(injection.linear.weight)
    added = injection(where, rows)
    for image, patch in torch.cartesian_prod(torch.arange(2), torch.arange(4)).tolist():
        symbol = int(where[image, patch])
        wanted = injection.linear.weight @ rows[symbol] if symbol >= 0 else torch.zeros(8)
        torch.testing.assert_close(added[image, patch], wanted)
    added.sum().backward()
    torch.testing.assert_close(rows.grad[4], 2 * injection.linear.weight.sum(0))
    assert not rows.grad[1].any()


def test_the_first_gradient_reaches_the_map() -> None:
    injection = VisualPromptInjection(8)
    injection(torch.tensor([[1, -1]]), torch.randn(2, 8)).square().sum().backward()
    assert not injection.linear.weight.grad.any()  # of squares at 0; the next says that it is no dead end
    injection.zero_grad()
    injection(torch.tensor([[1, -1]]), torch.randn(2, 8)).sum().backward()
    assert injection.linear.weight.grad.any()


def test_a_symbol_that_the_model_lacks_is_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match=r"^a region is called <Prompt5>, but the model has 5 such symbols$"):
        check_symbols(regions((0, 5, 0, 0, 4, 4), (0, 1, 0, 0, 4, 4)), 5)
    check_symbols(regions((0, 5, 0, 0, 4, 4)), 6)
    check_symbols(regions(), 0)
