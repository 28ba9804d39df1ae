"""Runs `fit.sbatch` on this machine under a scheduler that is made up: preempted, queued again, gone on from.

    python slurm/rehearsal.py EXPERIMENT [--processes 2] [--batch-size 4] [--strategies ddp fsdp] [OTHER ARGUMENTS]

For each strategy the job gets SIGUSR1 while it trains, must ask to be queued again, and is started once more; its
weights at the end are compared with those of one process that was left alone. What is real: the batch script, the
variables a task sees, the processes and their communication. What is made up: `srun`, `scontrol` and the nodes.
"""

import argparse
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from pixel_llm.weights.checkpoint import largest_difference

HERE = Path(__file__).resolve().parent
JOB, PATIENCE = "4711", 600
CPU = ["--trainer.accelerator", "cpu", "--trainer.precision", "32-true", "--trainer.enable_progress_bar", "false"]

OFTEN = """\
trainer:
  callbacks:
  - class_path: callbacks.last_checkpoint.LastCheckpoint
    init_args: {every_n_train_steps: 1}
"""


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", type=Path, help="a configuration")
    parser.add_argument("--processes", type=int, default=2, help="tasks of the job (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=4, help="images of each (%(default)s)")
    parser.add_argument("--strategies", nargs="+", default=["ddp", "fsdp"], choices=["ddp", "fsdp"])
    parser.add_argument("--runs", type=Path, default=Path("runs/rehearsal"), help="folder of its runs (%(default)s)")
    options, more = parser.parse_known_args(arguments)
    shutil.rmtree(options.runs, ignore_errors=True)
    alone, often = options.runs / "alone", options.runs / "often.yaml"
    options.runs.mkdir(parents=True)
    often.write_text(OFTEN)
    more = ["--config", str(often), *more]
    share = f"--data.init_args.batch_size={options.batch_size}"
    whole = f"--data.init_args.batch_size={options.batch_size * options.processes}"
    command = [sys.executable, "-m", "pixel_llm", "fit", "--config", str(options.experiment), *CPU, *more, whole]
    subprocess.run([*command, saved(alone)], check=True, env=one_thread())
    worst = 0.0
    for strategy in options.strategies:
        run = options.runs / strategy
        rehearse(strategy, options, run, [*more, share, saved(run)])
        difference = largest_difference(alone, run)
        worst = max(worst, difference)
        happened = f"{options.processes} processes, preempted and queued again"
        print(f"{strategy}: {happened}; weights differ by {difference:.1e}")
    return int(worst > 1e-5)


def saved(run: Path) -> str:
    return f"--trainer.logger.init_args.save_dir={run}"


def one_thread() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def rehearse(strategy: str, options: argparse.Namespace, run: Path, more: list[str]) -> None:
    """The job's two lives. Raises RuntimeError where it does not do what the scheduler expects of it."""
    with tempfile.TemporaryDirectory() as folder:
        requeued = Path(folder) / "requeued"
        environment = {
            **one_thread(), "PATH": f"{make_commands(Path(folder), requeued)}{os.pathsep}{os.environ['PATH']}",
            "STRATEGY": strategy, "SLURM_SUBMIT_DIR": str(HERE.parent), "SLURM_JOB_ID": JOB,
            "SLURM_JOB_NAME": "rehearsal", "SLURM_JOB_NUM_NODES": "1", "SLURM_NNODES": "1",
            "SLURM_NTASKS": str(options.processes), "SLURM_NTASKS_PER_NODE": str(options.processes),
            "SLURM_NODELIST": "127.0.0.1", "SLURM_NODEID": "0",
        }  # fmt: skip
        command = ["bash", HERE / "fit.sbatch", options.experiment, *CPU, *more]
        first = subprocess.Popen(list(map(str, command)), env=environment, start_new_session=True)
        deadline = time.monotonic() + PATIENCE
        while not any(run.rglob("last.ckpt")) and first.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        first.send_signal(signal.SIGUSR1)  # the batch script has become srun
        code = first.wait(PATIENCE)
        if code != 128 + signal.SIGUSR1 or requeued.read_text() != f"requeue {JOB}\n":
            raise RuntimeError(f"{strategy}: ended with code {code} and did not ask once to be queued again")
        second = subprocess.run(list(map(str, command)), env=environment, check=False)
        if second.returncode:
            raise RuntimeError(f"{strategy}: queued again, it ended with code {second.returncode}")


def make_commands(folder: Path, requeued: Path) -> Path:
    """`srun`, `scontrol` and this environment's `lightning` in a folder for PATH."""
    scripts = {
        "srun": f'exec {sys.executable} {HERE / "rehearsal.py"} --as-srun "$@"',
        "scontrol": f'echo "$@" >> {requeued}',
        "lightning": f'exec {sys.executable} -m pixel_llm "$@"',
    }
    for name, line in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{line}\n")
        (folder / name).chmod(0o755)
    return folder


def srun(arguments: Sequence[str]) -> int:
    """Start the tasks, pass signals on to them, end all after one that failed; the largest exit code."""
    command = list(itertools.dropwhile(lambda argument: argument.startswith("--"), arguments))
    tasks = [
        subprocess.Popen(command, env={**os.environ, "SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)})
        for i in range(int(os.environ["SLURM_NTASKS"]))
    ]
    for number in (signal.SIGUSR1, signal.SIGTERM):
        signal.signal(number, lambda received, _: [task.send_signal(received) for task in tasks])
    codes: list[int] = []
    while len(codes) < len(tasks):
        time.sleep(0.1)
        codes = [code for task in tasks if (code := task.poll()) is not None]
        if any(code not in (0, 128 + signal.SIGUSR1) for code in codes):
            for task in tasks:
                task.kill()
    return max(code if code >= 0 else 128 - code for code in codes)


if __name__ == "__main__":
    sys.exit(srun(sys.argv[2:]) if sys.argv[1:2] == ["--as-srun"] else main(sys.argv[1:]))
