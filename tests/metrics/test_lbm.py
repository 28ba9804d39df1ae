"""Local bipartite matching: published numbers, properties, samples that cannot be compared."""

import logging
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pixel_llm.metrics.lbm import LocalBipartiteMatching, local_bipartite_matching
from tests.parity.metrics import compare_lbm
from tests.parity.report import Report

lengths = st.integers(1, 65)


def walk(seed: int, length: int) -> np.ndarray:
    return np.random.default_rng(seed).random((length, 4))


def test_equals_the_published_code(shared):
    report = Report("")
    compare_lbm(report, shared / "golden" / "metrics")
    assert not report.failed, [row for row in report.rows if row.verdict != "pass"]


@given(length=lengths, k=st.integers(0, 2))
@settings(max_examples=30, deadline=None)
def test_identical_sequences_have_no_distance(length, k):
    boxes = walk(length, length)
    assert local_bipartite_matching(boxes, boxes, k) == pytest.approx(0.0, abs=1e-12)


@given(predicted=lengths, truth=lengths)
@settings(max_examples=40, deadline=None)
def test_more_freedom_never_costs_more_and_sides_may_be_swapped(predicted, truth):
    ours, theirs = walk(1, predicted), walk(2, truth)
    costs = [local_bipartite_matching(ours, theirs, k) for k in range(3)]
    assert costs[0] >= costs[1] - 1e-12 >= costs[2] - 2e-12
    assert local_bipartite_matching(theirs, ours, 1) == pytest.approx(costs[1])


def test_one_shifted_box_costs_its_mean_shift():
    truth = [(0.1, 0.1, 0.2, 0.2), (0.5, 0.5, 0.6, 0.6)]
    predicted = [(0.1, 0.1, 0.2, 0.2), (0.5, 0.5, 0.6, 0.8)]
    assert local_bipartite_matching(predicted, truth) == pytest.approx(0.2 / 4 / 2)


def test_words_without_a_trace_leave_the_truth_but_not_the_prediction():
    boxes = torch.tensor([[0.1] * 4, [0.9] * 4, [0.2] * 4, [0.2] * 4])
    truth = [(0.9,) * 4, None, (0.2,) * 4, None]
    # Two true boxes against four predicted ones: each takes the nearest of its half.
    assert local_bipartite_matching(boxes, truth) == pytest.approx(0.0, abs=1e-7)


def test_samples_without_boxes_are_counted_not_scored(caplog):
    metric = LocalBipartiteMatching(k=0)
    box, moved = [(0.0, 0.0, 0.5, 0.5)], [(0.0, 0.0, 0.5, 0.9)]
    with caplog.at_level(logging.WARNING):
        metric.update([box, torch.zeros(0, 4), box], [[None], box, moved])
        assert metric.compute().item() == pytest.approx(0.1)
    assert metric.skipped == 2
    assert "2 captions" in caplog.text


@pytest.mark.parametrize("k", [0, 1])
def test_broken_prediction_shows_in_the_value(k):
    assert np.isnan(local_bipartite_matching(np.full((30, 4), np.nan), walk(0, 30), k))


def test_as_many_predictions_as_truths():
    with pytest.raises(ValueError, match="zip"):
        LocalBipartiteMatching().update([walk(0, 3)], [])


def test_thousand_captions_take_a_fraction_of_a_second():
    truth = [walk(seed, 43).tolist() for seed in range(1000)]
    predicted = [walk(seed, 50) for seed in range(1000, 2000)]
    started = time.process_time()
    LocalBipartiteMatching(k=0).update(predicted, truth)
    assert time.process_time() - started < 1.0  # about 0.15 s; the original takes about 10 s
