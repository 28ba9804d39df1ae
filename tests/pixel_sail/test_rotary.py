import pytest
import torch

from pixel_llm.pixel_sail.rotary import RotaryPositions, rotate


def scores(positions: torch.Tensor) -> torch.Tensor:
    """Products of one query with one key at all pairs of positions (int[L, 3])."""
    query, key = torch.randn(2, 1, 1, 1, 8, generator=torch.Generator().manual_seed(0))
    angles = RotaryPositions.of_base(8, 100.0)(positions[None])
    query, key = (rotate(values.expand(1, 1, len(positions), 8), angles)[0, 0] for values in (query, key))
    return query @ key.T


def test_pairs_turn_as_drawn() -> None:
    rotary = RotaryPositions.of_base(8, 16.0)
    cosine, sine = rotary(torch.tensor([[[5, 1, 2]]]))
    angles = torch.tensor([1.0, 1 * 16**-0.25, 2 * 16**-0.5, 2 * 16**-0.75]).repeat(2)
    torch.testing.assert_close(cosine[0, 0], angles.cos())
    torch.testing.assert_close(sine[0, 0], angles.sin())


def test_products_depend_on_distances_along_rows_and_columns() -> None:
    places = torch.cartesian_prod(torch.arange(1), torch.arange(3), torch.arange(4))
    torch.testing.assert_close(scores(places), scores(places + torch.tensor([3, 10, 20])), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(scores(places), scores(places.flip(1)), atol=1e-2)


def test_gradients_are_those_of_turning() -> None:
    random = torch.Generator().manual_seed(0)
    values = torch.randn(2, 3, 4, 8, dtype=torch.float64, generator=random, requires_grad=True)
    angles = RotaryPositions.of_base(8, 100.0)(torch.randint(0, 9, (2, 4, 3), generator=random))
    assert torch.autograd.gradcheck(lambda turned: rotate(turned, angles), values)


def test_a_head_that_the_sections_do_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="6 dimensions, which do not go into 4"):
        RotaryPositions.of_base(6, 10.0)
