"""Point L1: published numbers, masking."""

import pytest
import torch

from pixel_llm.metrics.point_l1 import PointL1, point_l1
from tests.parity.metrics import compare_point_l1
from tests.parity.report import Report


def test_equals_the_published_code(shared):
    report = Report("")
    compare_point_l1(report, shared / "golden" / "metrics")
    assert not report.failed, [row for row in report.rows if row.verdict != "pass"]


def test_nearest_true_point_counts_and_the_rest_is_ignored():
    truth = torch.tensor([[[[0.1, 0.1], [0.5, 0.5]], [[torch.nan] * 2] * 2]])
    predicted = torch.tensor([[[[0.5, 0.7], [0.1, 0.1]], [[0.3, 0.3]] * 2]])
    value = point_l1(predicted, truth, torch.tensor([[True, False]]))
    assert value.tolist() == pytest.approx([(0.1 + 0.0) / 2])


def test_caption_without_a_located_word_counts_as_zero():
    metric = PointL1()
    predicted, truth = torch.full((2, 1, 1, 2), 0.4), torch.full((2, 1, 1, 2), 0.2)
    metric.update(predicted, truth, torch.tensor([[True], [False]]))
    assert metric.compute().item() == pytest.approx(0.1)
