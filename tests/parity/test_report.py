"""The comparison report: what passes, what fails, what counts as neither."""

import math

import pytest
import torch

from tests.parity.report import Report


@pytest.mark.parametrize(
    ("got", "want", "verdict"),
    [
        (torch.tensor([1.0, 200.001]), [1.0, 200.0], "pass"),  # 1e-3 of a scale of 200
        ([1.0, 201.0], [1.0, 200.0], "FAIL"),
        ([1e-6, 0.0], [0.0, 0.0], "pass"),
        ([math.nan, math.inf], [math.nan, math.inf], "pass"),
        ([math.nan, 1.0], [1.0, 1.0], "FAIL"),
        ([-math.inf], [math.inf], "FAIL"),
    ],
)
def test_error_is_relative_to_the_largest_wanted_value(got, want, verdict):
    report = Report("")
    report.check("part", "value", got, want, tolerance=1e-5)
    assert report.rows[0].verdict == verdict
    assert report.failed == (verdict == "FAIL")


def test_other_shape_fails_even_where_it_would_broadcast():
    report = Report("")
    report.check("part", "value", torch.ones(3), torch.ones(3, 1), tolerance=1.0)
    assert report.exit_code == 1


def test_skipping_everything_is_no_success(capsys):
    report = Report("a note")
    report.skip("mask head")
    assert report.failed
    report.check("part", "value", 1.0, 1.0, tolerance=0.0)
    assert not report.failed
    report.print()
    printed = capsys.readouterr().out
    assert "not built yet" in printed
    assert "1 passed, 0 failed, 1 not compared" in printed
