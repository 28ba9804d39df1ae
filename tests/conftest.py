"""Fixtures that several test files use."""

import os
from pathlib import Path

import pytest

from tests.tiny import toy_shards

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


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy world of a few images: raw/, shards narratives_*/ and instances_*/, tokenizer/. To be read only."""
    return toy_shards(tmp_path_factory.mktemp("toy"))
