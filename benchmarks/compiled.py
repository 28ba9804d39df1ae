"""A training step with compiled blocks, and how long they take to compile.

    python -m benchmarks.compiled                # all sizes that fit the machine
    python -m benchmarks.compiled --size toy

Each measurement is a process of its own, so that nothing is compiled when it begins.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

import torch

from benchmarks.model_sizes import DEVICE, SIZES, seconds_of, training
from benchmarks.report import say, section
from callbacks.compilation import compile_blocks

NAMES = ("toy", "reference-27m", "base", "paper")
WARM_UP = 3  # steps in which shapes that change are found out

TEXT = f"""The training step of "By model size", as it is and with the blocks of the encoders and the language model
compiled (`callbacks.compilation.Compilation`). Compiling is what the first {WARM_UP} steps take by the clock beyond
that many later ones, with nothing compiled before and once more, in a new process, with what that left on the disk."""
HEADER = ["size", "images", "step, s", "compiled, s", "times faster", "compiling, s", "again, s", "gained after steps"]


def measure(name: str) -> dict[str, float]:
    """In this process: seconds of a step, plain and compiled, and of compiling."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    size = SIZES[name]
    with DEVICE:
        model = size.build()
    step = training(model, size)
    plain = seconds_of(step, repeats=3)
    compile_blocks(model)
    start = time.perf_counter()
    for _ in range(WARM_UP):
        step()
    first = time.perf_counter() - start
    compiled = seconds_of(step, repeats=3)
    return {"plain": plain, "compiled": compiled, "compiling": first - WARM_UP * compiled}


def in_own_process(name: str, cache: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.compiled", "--size", name]
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache, "TRITON_CACHE_DIR": f"{cache}/triton"}
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, env=environment).stdout)


def row(name: str) -> list[object]:
    with tempfile.TemporaryDirectory() as cache:
        cold, warm = in_own_process(name, cache), in_own_process(name, cache)
    plain, compiled = (min(cold[what], warm[what]) for what in ("plain", "compiled"))
    say(f"   {name}: {plain:.3g} s, compiled {compiled:.3g} s after {cold['compiling']:.0f} s")
    gain = plain - compiled
    worth = f"{cold['compiling'] / gain:,.0f}" if gain > 0 else "never"
    times = [f"{plain:.3g}", f"{compiled:.3g}", f"{plain / compiled:.2f}"]
    return [name, SIZES[name].images, *times, f"{cold['compiling']:.0f}", f"{warm['compiling']:.0f}", worth]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=NAMES, help="measure this one only, in this process")
    options = parser.parse_args()
    if options.size:
        print(json.dumps(measure(options.size)))
        return
    rows = [row(name) for name in NAMES if name != "paper" or DEVICE.type == "cuda"]
    print(section("Compiled blocks", TEXT, HEADER, rows))


if __name__ == "__main__":
    main()
