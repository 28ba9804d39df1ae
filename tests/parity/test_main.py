"""The comparison with the published numbers passes, and it would not if a parameter were different."""

import shutil

import numpy as np
import pytest
import torch

from tests.parity.__main__ import CHECKERS, compare
from tests.parity.report import Report


@torch.no_grad()
@pytest.mark.parametrize("name", CHECKERS)
def test_published_numbers_are_reproduced(name, shared):
    (path,) = (shared / "golden/published").glob(f"{name}.*")
    report = Report("")
    CHECKERS[name](report, path)
    assert not report.failed, [row for row in report.rows if row.verdict.startswith("FAIL")]


def test_one_changed_parameter_is_noticed(shared, tmp_path):
    with np.load(shared / "golden/published/two_way_transformer.npz") as golden:
        arrays = {name: golden[name] for name in golden.files}
    arrays["params/norm_final_attn/bias"] = arrays["params/norm_final_attn/bias"] + 1e-2
    np.savez(tmp_path / "two_way_transformer.npz", **arrays)
    assert compare(tmp_path).exit_code == 1


def test_a_broken_file_fails_and_hides_no_other(shared, tmp_path):
    shutil.copy(shared / "golden/published/resize.npz", tmp_path)
    np.savez(tmp_path / "sam_vit.npz", nothing=np.zeros(1))
    report = compare(tmp_path)
    assert report.exit_code == 1
    assert report.passed > 0
