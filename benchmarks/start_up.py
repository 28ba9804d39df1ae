"""CPU time of `lightning fit --help`, against the imports that it cannot do without.

    python -m benchmarks.start_up
"""

import resource
import subprocess
import sys

from benchmarks.report import say, section

TEXT = """CPU seconds (user and system) of a whole process, from its start to its end. The first row only imports
Lightning's command line, and with it what Lightning itself imports; the rest of the others is ours. The aim is the
largest time."""
HEADER = ["process", "CPU s", "aim"]
COMMANDS = {
    "`import lightning.pytorch.cli`": ["-c", "import lightning.pytorch.cli"],
    "`lightning fit --help`": ["-m", "pixel_llm", "fit", "--help"],
    "`pixel-llm --help`": ["-m", "pixel_llm", "--help"],
}
SLOWER_THAN_IMPORTS = 1.15


def cpu_seconds_of(arguments: list[str], repeats: int = 3) -> float:
    """The best of several processes, after one that fills the file cache."""
    best = float("inf")
    for turn in range(repeats + 1):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if turn:
            best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return best


def main() -> None:
    rows = []
    for name, arguments in COMMANDS.items():
        seconds = cpu_seconds_of(arguments)
        rows.append([name, f"{seconds:.2f}", ""])
        say(f"   {name}: {seconds:.2f} s")
    rows[1][2] = f"{SLOWER_THAN_IMPORTS * float(rows[0][1]):.2f} ({SLOWER_THAN_IMPORTS} times the imports)"
    print(section("Start of the command line", TEXT, HEADER, rows))


if __name__ == "__main__":
    main()
