"""The mask head against its formula written out, and what it must not do to the memory."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pixel_llm.pixel_sail.mask_head import MaskHead

WIDTH, GRID, EMBEDDING = 12, (3, 4), 7
INDEX = torch.tensor([0, 0, 2])  # the second of three images has no [SEG]


def head(width: int = WIDTH, patch: int = 16, stride: int = 4) -> MaskHead:
    torch.manual_seed(0)
    made = MaskHead(width=width, patch=patch, stride=stride, embedding=EMBEDDING)
    for parameter in made.parameters():  # no bias and no scale that happens to be neutral
        nn.init.normal_(parameter, std=0.5)
    return made


def states(width: int = WIDTH) -> torch.Tensor:
    return torch.randn(3, GRID[0] * GRID[1], width, generator=torch.Generator().manual_seed(1))


def two_layers(mlp: nn.Module, values: torch.Tensor) -> torch.Tensor:
    first, second = mlp.layers
    return second(torch.relu(first(values)))


def upsampled(block: nn.Module, cells: torch.Tensor) -> torch.Tensor:
    """One block on one image float[C, h, w], cell by cell and tap by tap."""
    transposed, _, deep, point, norm = block
    channels, height, width = cells.shape
    large = torch.zeros(channels, 2 * height, 2 * width)
    for row in range(2 * height):
        for column in range(2 * width):
            tap = transposed.weight[:, :, row % 2, column % 2]
            large[:, row, column] = cells[:, row // 2, column // 2] @ tap + transposed.bias
    large = F.pad(F.gelu(large), (1, 1, 1, 1))
    out = torch.zeros(channels, 2 * height, 2 * width)
    for row in range(2 * height):
        for column in range(2 * width):
            window = large[:, row : row + 3, column : column + 3]
            values = (window * deep.weight[:, 0]).sum((1, 2)) + deep.bias
            values = point.weight[:, :, 0, 0] @ values + point.bias
            values = (values - values.mean()) / (values.var(correction=0) + 1e-6).sqrt()
            out[:, row, column] = values * norm.weight + norm.bias
    return out


@torch.no_grad()
def test_segment_by_segment_it_is_the_formula() -> None:
    made, seen, hidden = head(), states(), torch.randn(len(INDEX), WIDTH)
    got = made(made.features(seen, GRID), hidden, INDEX)
    for segment, image in enumerate(INDEX.tolist()):
        cells = seen[image].T.reshape(WIDTH, *GRID)
        for block in made.upsampling:
            cells = upsampled(block, cells)
        features = two_layers(made.pixel_mlp, cells.flatten(1).T)
        wanted = features @ two_layers(made.query_mlp, hidden[segment])
        torch.testing.assert_close(got[segment], wanted.reshape(4 * GRID[0], 4 * GRID[1]), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize(("stride", "times"), [(16, 1), (8, 2), (4, 4), (2, 8)])
@torch.no_grad()
def test_the_stride_says_how_fine_masks_are(stride: int, times: int) -> None:
    made = head(stride=stride)
    features = made.features(states(), GRID)
    assert features.shape == (3, EMBEDDING, times * GRID[0], times * GRID[1])
    if times == 1:  # the plain baseline: each cell from its patch alone
        wanted = two_layers(made.pixel_mlp, states())
        torch.testing.assert_close(features.flatten(2).transpose(1, 2), wanted)


@pytest.mark.parametrize("stride", [0, -4, 3, 5, 32])
def test_a_stride_that_halving_does_not_reach_is_refused(stride: int) -> None:
    with pytest.raises(ValueError, match="cannot be halved"):
        MaskHead(width=8, patch=16, stride=stride, embedding=4)


@torch.no_grad()
def test_only_wide_states_are_made_narrower_first() -> None:
    wide = MaskHead(width=1026, patch=8, stride=8, embedding=4)
    assert wide.features(torch.randn(1, 12, 1026), GRID).shape == (1, 4, *GRID)
    names = [name for name, _ in head(width=16).named_parameters()]
    assert not any(name.startswith("state_mlp") for name in names)
    features, hidden = torch.randn(1, 4, *GRID), torch.randn(2, 1026)
    assert wide(features, hidden, torch.zeros(2, dtype=torch.long)).shape == (2, *GRID)


def test_no_segment_gives_no_mask_but_a_gradient_everywhere() -> None:
    made = head()
    features = made.features(states(), GRID)
    masks = made(features, torch.zeros(0, WIDTH), torch.zeros(0, dtype=torch.long))
    assert masks.shape == (0, 12, 16)
    masks.sum().backward()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in made.parameters())


def test_segments_out_of_order_are_refused() -> None:
    with pytest.raises(ValueError, match="out of order"):
        head()(torch.randn(3, EMBEDDING, 4, 4), torch.randn(2, WIDTH), torch.tensor([1, 0]))


def test_many_masks_of_an_image_hold_its_features_once() -> None:
    """What autograd keeps of 40 masks of one image, beside the queries, is what it keeps of one."""
    made = head()
    features = made.features(states()[:1], GRID).detach().requires_grad_()

    def held(segments: int) -> int:
        kept: dict[int, int] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            made(features, torch.randn(segments, WIDTH), torch.zeros(segments, dtype=torch.long))
        return sum(kept.values())

    queries = 40 * 4 * (2 * WIDTH + EMBEDDING)
    assert held(40) - held(1) <= queries
    assert features.nbytes > 0.5 * queries  # or a copy for each would go unseen
