"""The batch script under a made-up scheduler: preempted, queued again and finished as if nothing had been."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.runs import tiny_config, write_config

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_a_preempted_job_is_queued_again_and_ends_as_one_process_would(toy: Path, tmp_path: Path) -> None:
    config = tiny_config(toy, tmp_path / "run", steps=40)
    config["model"]["init_args"]["core"]["init_args"]["language_model"]["init_args"]["dropout"] = 0.0
    file = write_config(tmp_path / "config.yaml", config)
    options = ["--strategies", "fsdp", "--batch-size", "2", "--runs", tmp_path / "runs"]
    command = [sys.executable, ROOT / "slurm/rehearsal.py", file, *options]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=tmp_path, env=_with_the_project(), timeout=500
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert "fsdp: 2 processes, preempted and queued again; weights differ by " in done.stdout


def _with_the_project() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(ROOT)}
