"""Fixtures that several test files use."""

import os
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of golden numbers and small real samples beside the checkout.

    A clone elsewhere has none and skips; on the continuous-integration machine its absence is a failure.
    """
    if not SHARED.is_dir():
        if os.environ.get("CI") == "true":
            pytest.fail(f"{SHARED} is missing and CI=true: the comparison with golden numbers cannot be left out")
        pytest.skip(f"no reference data at {SHARED}")
    return SHARED
