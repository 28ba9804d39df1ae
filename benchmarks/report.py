"""How all benchmarks measure and print: the best of several turns, one markdown section each."""

import os
import platform
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

_PACKAGES = ("torch", "lightning", "transformers", "timm", "peft", "webdataset", "pillow")


def say(line: str) -> None:
    """Progress, for the person who waits."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def cpu_seconds(function: Callable[[], object], repeats: int = 3) -> float:
    """CPU time of this process for one call, the best of several after one that does not count.

    CPU time is disturbed less than the clock by what else runs on the machine; with one thread the two are the
    same on an idle one.
    """
    function()
    best = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        function()
        best = min(best, time.process_time() - start)
    return best


def section(title: str, text: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A heading, what is measured, and a table."""
    text = textwrap.fill(" ".join(text.split()), width=120, break_on_hyphens=False)
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in (header, ["---"] * len(header), *rows)]
    return f"## {title}\n\n{text}\n\n" + "\n".join(lines) + "\n"


def conditions() -> list[tuple[str, str]]:
    """What a figure depends on, beside the code: name and value."""
    versions = ", ".join(f"{package} {version(package)}" for package in _PACKAGES)
    load = f"{os.getloadavg()[0]:.1f} runnable processes in the minute before"
    return [
        ("machine", f"{_processor()}, {os.cpu_count()} cores, {_memory_gb():.0f} GB; {_gpu()}"),
        ("threads", "1 in every measurement"),
        ("load", load),
        ("software", f"Python {platform.python_version()}, {versions}"),
        ("date", datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")),
        ("commit", _commit()),
    ]


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.machine()


def _memory_gb() -> float:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9


def _gpu() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"


def _commit() -> str:
    git = ["git", "-C", str(Path(__file__).parent)]
    name = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    changed = subprocess.run([*git, "diff", "--quiet", "HEAD"]).returncode
    return (name or "unknown") + (" with local changes" if changed else "")
