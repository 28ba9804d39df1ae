"""Runs all benchmarks in turn and writes docs/benchmarks.md.

    python -m benchmarks

Each is a process of its own and can be run alone: `python -m benchmarks.loader`. Left out are `alignment`, which
reads annotation files, and `results`, which trains.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.report import conditions, say

NAMES = (
    "reference_27m", "decoding", "sam_encoder", "mask_decoding", "model_sizes", "frozen_features", "compiled",
    "processes", "loader", "referring", "referring_metrics", "dense_captioning", "dense_captioning_metrics",
    "mask_head_memory", "shared_prefix", "start_up",
)  # fmt: skip
ROOT = Path(__file__).parent.parent

HEAD = """# Speed and memory

Written by `make benchmarks`; every section also by a command of its own, such as `python -m benchmarks.loader`.
Seconds are CPU seconds of one thread, the best of several turns. An aim is what the figure beside it should reach.
"""


def run(name: str) -> str:
    """The section that a benchmark prints; its progress goes to the error stream."""
    start = time.monotonic()
    say(f"== {name}")
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", f"benchmarks.{name}"]
    section = subprocess.run(command, cwd=ROOT, env=one_thread, stdout=subprocess.PIPE, text=True, check=True)
    say(f"   {time.monotonic() - start:.0f} s")
    return section.stdout.strip() + "\n"


def main() -> None:
    facts = "\n".join(f"- {name}: {value}" for name, value in conditions())
    out = ROOT / "docs" / "benchmarks.md"
    out.write_text("\n".join([HEAD, facts, "", *(run(name) for name in NAMES)]))
    say(f"written: {out}")


if __name__ == "__main__":
    main()
