"""Fixtures that several test files use."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.runs import (
    command,
    tiny_config,
    tiny_dialogues_config,
    tiny_referring_config,
    tiny_regions_config,
    write_config,
)
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
    """A toy world of a few images, see `toy_shards`. To be read only."""
    return toy_shards(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="session")
def tiny_run(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training of two steps on `toy`, with what it said in `stdout` and `stderr`. To be read only."""
    return _trained(tiny_config, toy, tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_referring_run(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training of two steps on expressions of `toy`, by a model with masks. To be read only."""
    return _trained(tiny_referring_config, toy, tmp_path_factory.mktemp("tiny_referring"))


@pytest.fixture(scope="session")
def tiny_region_run(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training of two steps on sentences of regions of `toy`. To be read only."""
    return _trained(tiny_regions_config, toy, tmp_path_factory.mktemp("tiny_regions"), dense=False)


@pytest.fixture(scope="session")
def tiny_dense_run(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same by a model that finds the regions itself, any five of them. To be read only."""
    return _trained(tiny_regions_config, toy, tmp_path_factory.mktemp("tiny_dense"), dense=True)


@pytest.fixture(scope="session")
def tiny_dialogues_run(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training of two steps of a single transformer. To be read only."""
    return _trained(tiny_dialogues_config, toy, tmp_path_factory.mktemp("tiny_dialogues"))


def _trained(make_config: Callable[..., dict[str, Any]], toy: Path, folder: Path, **options: Any) -> Path:
    """The folder of a training of two steps by the command line, with what it said in `stdout` and `stderr`."""
    config = make_config(toy, folder / "run", steps=2, **options)
    config["trainer"]["enable_model_summary"] = True
    done = command("fit", "--config", write_config(folder / "config.yaml", config))
    assert done.returncode == 0, done.stderr
    (folder / "run/stdout").write_text(done.stdout)
    (folder / "run/stderr").write_text(done.stderr)
    return folder / "run"
