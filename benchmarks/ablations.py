"""Runs the paper's ablations (Tables 4 and 5) on the toy world, and writes docs/ablations.md and docs/ablations.json.

    python -m benchmarks.ablations [--jobs 2] [--steps 600]

Every row starts from the same visual half and a language model that has seen text alone, and gets the same number of
steps with batches of the same size; trace pretraining takes half of them. Trainings run side by side, one to a core.
Interrupted, it goes on where it was.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

STEPS = 600
SEEDS = (0, 1, 2)
CONFIGS, RUNS, DOCS = Path("configs"), Path("runs/ablations"), Path("docs")
VISUAL = "runs/toy/pretrain_attributes/checkpoints/last.ckpt"
SPLIT = "toy_unc_test"
LORA_RANK = 8

# of the toy's T5: width, layers of encoder and decoder each, heads, feed-forward; "small" is the toy's own
SIZES = {"tiny": (64, 1, 2, 128), "small": (128, 2, 4, 256), "base": (192, 3, 6, 384)}

Figures = dict[str, list[float]]  # a value for each seed


@dataclass(frozen=True)
class Row:
    """One way to train.

    config: of the referring stage.  trace: half of the steps go into trace captioning first.
    size, trainable: of the language model.  paper: the paper's P@0.5 on RefCOCO.
    """

    key: str
    name: str
    config: str = "regression"
    trace: bool = False
    size: str = "small"
    trainable: str = "all"
    paper: float | None = None


REPRESENTATIONS = (
    Row("string", "raw string", "string", paper=84.4),
    Row("bins", "extra tokens", "bins", paper=86.1),
    Row("regression", "regression without trace pretraining", paper=87.6),
    Row("regression_trace", "regression with trace pretraining", trace=True, paper=89.8),
)
LANGUAGE_MODELS = tuple(
    Row(f"{size}_{trainable}", f"{size}, {name}", trace=True, size=size, trainable=trainable)
    for size in SIZES
    for trainable, name in (("nothing", "frozen"), ("lora", "LoRA"))
)
ROWS = REPRESENTATIONS + LANGUAGE_MODELS


def main() -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=cores, help="trainings side by side (default: one to a core)")
    parser.add_argument("--steps", type=int, default=STEPS, help="of every row, all stages together (%(default)s)")
    args = parser.parse_args()
    threads = max(1, cores // args.jobs)
    side_by_side(args.jobs, [partial(pretrain, size, threads) for size in SIZES])
    for table in (REPRESENTATIONS, LANGUAGE_MODELS):
        side_by_side(args.jobs, [partial(run, row, s, args.steps, threads) for s in SEEDS for row in table])
    write({row.key: figures(row, args.steps) for row in ROWS}, args.steps)


def side_by_side(jobs: int, tasks: Iterable[Any]) -> None:
    """Call all, so many at a time; nothing new is begun after a failure, which is raised."""
    pool = ThreadPoolExecutor(jobs)
    try:
        for _ in pool.map(lambda task: task(), tasks):
            pass
    finally:
        pool.shutdown(cancel_futures=True)


def language_model(size: str) -> Path:
    """The folder of a language model that has seen text alone."""
    return Path("runs/toy/pretrain_language_model") if size == "small" else RUNS / f"language_model_{size}"


def pretrain(size: str, threads: int) -> None:
    """Train a language model of another size than the toy's as the toy's was."""
    if size != "small":
        changes = sized("--model.init_args.core", size)
        lightning("fit", "pretrain/toy_language_model.yaml", language_model(size), threads, *changes)


def run(row: Row, seed: int, steps: int, threads: int) -> None:
    """Train and test one row with one seed."""
    folder = run_folder(row, seed, steps)
    seeds = (f"--seed_everything={seed}", f"--data.init_args.seed={seed}")
    model = [f"{_LANGUAGE_MODEL}.init_args.trainable={row.trainable}"]
    if row.trainable == "lora":
        model += [f"{_LANGUAGE_MODEL}.init_args.lora_{n}" for n in (f"rank={LORA_RANK}", f"alpha={2 * LORA_RANK}")]
    if row.size != "small":
        model += sized(_LANGUAGE_MODEL, row.size)
    start = weights(visual=VISUAL, language_model=str(language_model(row.size) / "checkpoints/last.ckpt"))
    if row.trace:
        half = f"--trainer.max_steps={steps // 2}"
        lightning("fit", "trace/toy.yaml", folder / "trace", threads, *seeds, *model, half, start)
        start = weights(core=str(folder / "trace/checkpoints/last.ckpt"))
    rest = f"--trainer.max_steps={steps - steps // 2 if row.trace else steps}"
    for verb in ("fit", "test"):
        lightning(verb, f"ablations/{row.config}.yaml", folder, threads, *seeds, *model, rest, start)


_LANGUAGE_MODEL = "--model.init_args.core.init_args.language_model"


def sized(argument: str, size: str) -> list[str]:
    width, layers, heads, feed_forward = SIZES[size]
    sizes = {"width": width, "layers": layers, "heads": heads, "feed_forward": feed_forward}
    return [f"{argument}.init_args.{name}={value}" for name, value in sizes.items()]


def weights(**parts: str) -> str:
    """The argument that sets the starting weights; parts that are not named start from nothing."""
    init_args = {"visual": None, "language_model": None, "core": None} | parts
    return "--model.init_args.weights=" + json.dumps(
        {"class_path": "pixel_llm.weights.start.StartingWeights", "init_args": init_args}
    )


def run_folder(row: Row, seed: int, steps: int) -> Path:
    return RUNS / f"{steps}_steps" / row.key / f"seed_{seed}"


def lightning(verb: str, config: str, folder: Path, threads: int, *arguments: str) -> None:
    """Run a command of the trainer with its log in a folder, unless it was done before; its file says the seconds.

    Raises RuntimeError, naming the log, where it fails.
    """
    done, log = folder / f"{verb}.done", folder / f"{verb}.log"
    if done.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pixel_llm", verb, "--config", str(CONFIGS / config), "--ckpt_path=last"]
    command += [f"--trainer.logger.init_args.save_dir={folder}", "--trainer.limit_val_batches=0", *arguments]
    command += ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    began = time.monotonic()
    with log.open("a") as out:
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        code = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, env=environment).returncode
    if code:
        raise RuntimeError(f"{verb} failed, see {log}")
    seconds = time.monotonic() - began
    done.write_text(f"{seconds:.0f}\n")
    sys.stderr.write(f"{verb} of {folder}: {seconds:.0f} s\n")


def figures(row: Row, steps: int) -> Figures:
    """The figures of a row that has been tested with every seed."""
    tested = [json.loads((run_folder(row, seed, steps) / "test.json").read_text()) for seed in SEEDS]
    names = {"p50": f"{SPLIT}/p50", "p50_relation": f"{SPLIT}/p50_relation", "unreadable": "unreadable"}
    return {short: [test[name] for test in tested] for short, name in names.items() if name in tested[0]}


def write(found: dict[str, Figures], steps: int) -> None:
    """docs/ablations.json: figures with all seeds; docs/ablations.md: the same as tables for people."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    content = {"steps": steps, "seeds": list(SEEDS), "commit": commit, "rows": found}
    (DOCS / "ablations.json").write_text(json.dumps(content, indent=1) + "\n")
    text = HEAD.format(steps=steps, half=steps // 2, seeds=len(SEEDS), commit=commit, rank=LORA_RANK)
    tables = [text, *representations(found), *language_models(found)]
    (DOCS / "ablations.md").write_text("\n".join(tables) + "\n")
    sys.stderr.write(f"written: {DOCS / 'ablations.md'}\n")


HEAD = """# The paper's ablations on the toy world

Written by `make ablations` at commit {commit}. Every row gets {steps} steps of 16 images in all, from the same visual
half (attribute pretraining) and a language model that has seen text alone; trace pretraining takes {half} of them.
Shares in percent on the held-out split, mean ± standard deviation of {seeds} seeds, which order the data and start what
has no starting weights. Differences within the spread mean nothing. The paper's figures are those of T5-XL on RefCOCO:
they are here for their order.
"""


def representations(found: dict[str, Figures]) -> list[str]:
    """The lines of the table like the paper's Table 4."""
    ordered = sorted(REPRESENTATIONS, key=lambda row: mean(found[row.key]["p50"]))
    return [
        "## How a location is said (Table 4)",
        "",
        "`configs/ablations/{string,bins,regression}.yaml`: two digits a coordinate, 100 new tokens, or the location",
        "head; the whole language model trains. Unreadable answers are no box; they count as misses.",
        "",
        "| location | P@0.5 | relations | unreadable | the paper |",
        "|---|---|---|---|---|",
        *(
            f"| {row.name} | {cell(found[row.key], 'p50')} | {cell(found[row.key], 'p50_relation')} "
            f"| {cell(found[row.key], 'unreadable')} | {row.paper} |"
            for row in REPRESENTATIONS
        ),
        "",
        f"From low to high here: {', '.join(row.name for row in ordered)}.",
        "",
    ]


def language_models(found: dict[str, Figures]) -> list[str]:
    """The lines of the table like the paper's Table 5."""
    head = ("P@0.5, frozen", "P@0.5, LoRA", "relations, frozen", "relations, LoRA")
    lines = [f"| language model | width × layers | {' | '.join(head)} |", "|---|---|---|---|---|---|"]
    for size, (width, layers, *_) in SIZES.items():
        rows = [found[row.key] for row in LANGUAGE_MODELS if row.size == size]
        cells = [cell(row, name) for name in ("p50", "p50_relation") for row in rows]
        lines.append(f"| {size} | {width} × {layers} | {' | '.join(cells)} |")
    return [
        "## Size of the language model (Table 5)",
        "",
        f"Regression with trace pretraining; the language model is frozen, or trains by LoRA of rank {LORA_RANK}. The",
        "paper has 67.0, 70.3, 73.6 and 81.9 frozen and 75.6, 80.8, 84.8 and 89.8 with LoRA, from T5-small to T5-XL.",
        "",
        *lines,
    ]


def cell(row: Figures, name: str) -> str:
    """Mean and sample standard deviation in percent; empty for a figure that the row does not have."""
    if name not in row:
        return ""
    percent = [100 * value for value in row[name]]
    return f"{mean(percent):.1f} ± {stdev(percent):.1f}"


if __name__ == "__main__":
    main()
