"""Least-cost assignment against trying every assignment."""

from itertools import permutations

import numpy as np
import pytest

from pixel_llm.metrics.assignment import assignment_cost


def brute_force(cost: np.ndarray) -> float:
    rows, columns = cost.shape
    return min(cost[range(rows), chosen].sum() for chosen in map(list, permutations(range(columns), rows)))


@pytest.mark.parametrize("seed", range(20))
def test_equals_brute_force_with_ties_and_forbidden_pairs(seed):
    rng = np.random.default_rng(seed)
    rows = rng.integers(1, 6)
    cost = rng.integers(-3, 4, size=(rows, rng.integers(rows, 8))).astype(float)
    cost[rng.random(cost.shape) < 0.2] = np.inf
    np.fill_diagonal(cost, 4.0)  # keeps one assignment possible
    assert assignment_cost(cost) == brute_force(cost)


def test_no_assignment_possible():
    with pytest.raises(ValueError, match="no assignment"):
        assignment_cost(np.array([[1.0, np.inf], [2.0, np.inf]]))
