"""The plan: a permutation, a pure function, weights obeyed, reads local."""

from collections import Counter

import numpy as np
import pytest

from datamodules.plan import Plan


def epoch(plan: Plan, number: int) -> list[tuple[int, int]]:
    return [plan(number, position) for position in range(plan.samples)]


def test_every_sample_once_per_epoch_and_another_order_each() -> None:
    plan = Plan([[5, 7, 3], [4]], seed=3, window=4)
    everything = [(0, i) for i in range(15)] + [(1, i) for i in range(4)]
    first, second = epoch(plan, 0), epoch(plan, 1)
    assert sorted(first) == sorted(second) == everything
    assert first != second
    assert first != everything


def test_pure_function_of_seed_epoch_position() -> None:
    plan, other = Plan([[50, 50]], seed=1), Plan([[50, 50]], seed=1)
    forward = epoch(plan, 2)
    backward = [other(2, position) for position in reversed(range(100))]
    assert forward == backward[::-1]
    assert forward != epoch(Plan([[50, 50]], seed=2), 2)


def test_weights_set_the_shares() -> None:
    plan = Plan([[30], [3000]], weights=[3, 1], seed=0, samples=4000)
    drawn = epoch(plan, 0)
    assert np.mean([source == 0 for source, _ in drawn]) == pytest.approx(0.75, abs=0.03)
    small = [index for source, index in drawn if source == 0]
    counts = np.bincount(small, minlength=30)
    assert counts.max() - counts.min() <= 1  # a source is gone through whole before it starts again


def test_repeats_are_exact() -> None:
    plan = Plan([[7], [5, 6], [3]], repeats=[1, 4, 10], seed=0)
    for number in (0, 1):
        drawn = Counter(epoch(plan, number))
        assert drawn == {(s, i): k for s, n, k in ((0, 7, 1), (1, 11, 4), (2, 3, 10)) for i in range(n)}
    batches = Plan([[7], [11]], repeats=[1, 4], seed=0, run=4)
    assert [sum(s == source for s, _ in epoch(batches, 0)) for source in (0, 1)] == pytest.approx([7, 44], abs=4)
    for wrong in ([1], [1, 0], [1, 2, 3]):
        with pytest.raises(ValueError, match=r"^repeats \[.*\]: one number from 1 on for each of 2 sources"):
            Plan([[7], [11]], repeats=wrong)
    with pytest.raises(ValueError, match="and no weights"):
        Plan([[7], [11]], weights=[1, 1], repeats=[1, 1])


@pytest.mark.parametrize("weights", [None, [1, 2]])
def test_runs_come_from_one_source(weights: list[float] | None) -> None:
    plan = Plan([[64], [32]], weights=weights, seed=0, run=8, samples=96)
    drawn = epoch(plan, 0)
    for begin in range(0, 96, 8):
        assert len({source for source, _ in drawn[begin : begin + 8]}) == 1


def test_windows_keep_reads_local() -> None:
    plan = Plan([[100] * 10], seed=0, window=100)
    shards = [index // 100 for _, index in epoch(plan, 0)]
    assert all(len(set(shards[begin : begin + 100])) == 1 for begin in range(0, 1000, 100))
    assert shards[::100] != sorted(shards[::100])


def test_without_a_seed_nothing_is_shuffled() -> None:
    plan = Plan([[2, 1], [2]], seed=None)
    assert epoch(plan, 0) == epoch(plan, 5) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shard_sizes": [[0]]}, "no sample"),
        ({"shard_sizes": [[1]], "weights": [1, 2]}, "one positive number"),
        ({"shard_sizes": [[1]], "seed": None, "weights": [1.0]}, "need a seed"),
    ],
)
def test_nonsense_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Plan(**arguments)
