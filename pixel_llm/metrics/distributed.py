"""Metrics over rows that are no tensors: gathering them from all ranks, and computing something only once."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

Row = TypeVar("Row")
Value = TypeVar("Value")


def gather_rows(rows: dict[str, Row]) -> dict[str, Row]:
    """The union of all ranks' rows, sorted by key; of a key that several ranks hold, the first rank's row.

    Every rank must call it; ranks may hold any number of rows, also none. The rows are pickled between ranks.
    """
    if dist.is_available() and dist.is_initialized():
        parts: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(parts, rows)
        rows = {key: row for part in reversed(parts) for key, row in part.items()}
    return dict(sorted(rows.items()))


def split_rows(rows: dict[str, Row]) -> dict[str, list[Row]]:
    """The rows of each split; a key is SPLIT/..."""
    found: dict[str, list[Row]] = {}
    for key, row in rows.items():
        found.setdefault(key.partition("/")[0], []).append(row)
    return found


def on_rank_zero(function: Callable[[], Value]) -> Value:
    """Calls the function on rank 0 and returns its value, or raises its error, on all ranks.

    Every rank must call it.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return function()
    outcome: list[Any] = [None, None]
    if dist.get_rank() == 0:
        try:
            outcome[0] = function()
        except Exception as error:  # the other ranks wait for an outcome, whatever it is
            outcome[1] = error
    dist.broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    value: Value = outcome[0]
    return value
