"""Least-cost assignment of rows to columns, exact."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def assignment_cost(cost: Floats) -> float:
    """Least total cost of giving every row a column of its own.

    The Hungarian method with shortest augmenting paths (Jonker & Volgenant 1987), O(n² m).

    cost: float[n, m] with n <= m, infinite where a row may not take a column.
    Raises ValueError where no assignment has a finite cost.
    """
    rows, columns = assignment(cost)
    return float(cost[rows, columns].sum())


def assignment(cost: Floats) -> tuple[Integers, Integers]:
    """The n rows and the column that each is given, ordered by column; arguments as those of `assignment_cost`."""
    rows, columns = cost.shape
    row_price, column_price = np.zeros(rows), np.zeros(columns)
    owner = np.full(columns, -1)
    for row in range(rows):
        _augment(row, cost, row_price, column_price, owner)
    taken = np.flatnonzero(owner >= 0)
    return owner[taken], taken


def _augment(start: int, cost: Floats, row_price: Floats, column_price: Floats, owner: Integers) -> None:
    """Gives row `start` a column, moving earlier rows along the shortest path of reduced costs."""
    columns = len(column_price)
    distance = np.full(columns, np.inf)
    previous = np.full(columns, -1)
    visited = np.zeros(columns, dtype=bool)
    row, column, travelled = start, -1, 0.0
    while row >= 0:
        step = travelled + cost[row] - row_price[row] - column_price
        shorter = (step < distance) & ~visited
        distance[shorter], previous[shorter] = step[shorter], row
        open_distance = np.where(visited, np.inf, distance)
        column = int(open_distance.argmin())
        travelled = open_distance[column]
        if not np.isfinite(travelled):
            raise ValueError("no assignment has a finite cost: a row has no column left that it may take")
        visited[column] = True
        row = int(owner[column])
    gain = travelled - distance[visited]
    moved = owner[visited]
    row_price[start] += travelled
    row_price[moved[moved >= 0]] += gain[moved >= 0]
    column_price[visited] -= gain
    _shift_owners(start, column, previous, owner)


def _shift_owners(start: int, column: int, previous: Integers, owner: Integers) -> None:
    """Walks the path back from its free end, handing each column to the row before it."""
    row = -1
    while row != start:
        row = int(previous[column])
        (held,) = np.nonzero(owner == row)
        owner[column] = row
        column = int(held[0]) if len(held) else column
