"""Kills a training again and again and compares what became of it with one that was left alone; docs/torture.md.

    python -m benchmarks.torture [--kills 50] [--layout-kills 10]

Two trainings of a tiny model on the toy world. The first has all that could lose its place: dropout, random views, two
sources mixed by weights, accumulated gradients, averaged weights, and another number of loading processes in each
life; its weights must be those of the quiet run bit by bit. In the second one, without dropout, lives have one process
or two. Every life ends by SIGKILL to the whole process group at a random moment: loading, stepping, or writing a
checkpoint.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.report import say
from pixel_llm.weights.checkpoint import largest_difference

RUNS, DOCS = Path("runs/torture"), Path("docs")
STEPS_PER_KILL, SAVE_EVERY, GLOBAL_BATCH = 6, 2, 4
PATIENCE = 300  # seconds without a new batch: something hangs


@dataclass
class Outcome:
    """What became of a tortured training, against the one that was left alone.

    kills: of the run.  lost, doubled: samples that its batches lack, or have without belonging there.
    difference: the largest of any weight.  diverged: whether that is more than it may be.
    """

    kills: int
    lost: int
    doubled: int
    difference: float
    diverged: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="in one layout (%(default)s)")
    parser.add_argument("--layout-kills", type=int, default=10, help="with one or two processes (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (%(default)s)")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    same = torture("one_layout", args.kills, rng, dropout=0.1, layouts=(1,), tolerance=0.0)
    mixed = torture("layouts", args.layout_kills, rng, dropout=0.0, layouts=(1, 2), tolerance=1e-6)
    write(same, mixed)


def torture(
    name: str, kills: int, rng: random.Random, dropout: float, layouts: tuple[int, ...], tolerance: float
) -> Outcome:
    """Train quietly and under torture, and compare."""
    quiet, tortured = RUNS / name / "quiet", RUNS / name / "tortured"
    shutil.rmtree(RUNS / name, ignore_errors=True)
    steps = STEPS_PER_KILL * kills
    config = write_config(RUNS / name, steps, dropout)
    say(f"== {name}: {steps} steps left alone")
    wait(start(config, quiet, 1, 0))
    done = 0
    while done < kills:
        process = start(config, tortured, rng.choice(layouts), rng.choice((0, 1, 2)))
        kill_at_some_moment(process, tortured, rng)
        done += 1
        say(f"   kill {done} of {kills}, {len(batches(tortured))} batches")
    wait(start(config, tortured, 1, 0))
    lost, doubled = compare(batches(quiet), batches(tortured))
    difference = largest_difference(quiet, tortured)
    return Outcome(done, lost, doubled, difference, int(not difference <= tolerance))


def write_config(folder: Path, steps: int, dropout: float) -> Path:
    """A tiny trace captioner on two sources."""
    narratives = {
        "tokenizer": "toy/tokenizer", "sentences": False, "max_tokens": 32, "image_size": 64,
        "scale_jitter": [0.7, 1.0], "flip_probability": 0.5,
    }  # fmt: skip
    sources = [
        {
            "class_path": "datamodules.localized_narratives.LocalizedNarrativesDataModule",
            "init_args": {f"{part}_shards": [f"toy/shards/narratives_{split}"] for part in ("train", "val", "test")}
            | narratives,
        }
        for split in ("train", "val")
    ]
    encoder = {"width": 16, "depth": 2, "heads": 2, "global_blocks": [1], "image_size": 64, "window": 2}
    words = {"width": 16, "layers": 2, "heads": 2, "head_width": 8, "feed_forward": 24, "visual_width": 12}
    core = {
        "sam_encoder": {"class_path": "pixel_llm.core.sam_image_encoder.SamImageEncoder",
                        "init_args": encoder | {"output_channels": 16}},
        "tuned_encoder": {"class_path": "pixel_llm.core.conv_encoder.ConvEncoder",
                          "init_args": {"width": 16, "stride": 8, "blocks": 1, "heads": 2}},
        "language_model": {"class_path": "pixel_llm.core.t5.T5",
                           "init_args": words | {"vocabulary_size": 256, "dropout": dropout, "trainable": "all"}},
        "extractor_width": 16, "extractor_heads": 2, "extractor_mlp": 32, "query_tokens": 4,
        "location_hidden": 16, "location_depth": 2,
    }  # fmt: skip
    callbacks: list[dict[str, Any]] = [
        {"class_path": "callbacks.last_checkpoint.LastCheckpoint", "init_args": {"every_n_train_steps": SAVE_EVERY}},
        {"class_path": "callbacks.sample_journal.SampleJournal"},
        {"class_path": "lightning.pytorch.callbacks.EMAWeightAveraging", "init_args": {"decay": 0.9}},
    ]
    config = {
        "seed_everything": 0,
        "model": {
            "class_path": "pixel_llm.tasks.trace_captioning.TraceCaptioning",
            "init_args": {
                "core": {"class_path": "pixel_llm.core.build.pixel_llm", "init_args": core},
                "optimizer": {"class_path": "pixel_llm.tasks.optimizer.AdamWSchedule",
                              "init_args": {"learning_rate": 1e-3, "warmup_steps": 5}},
                "max_tokens": 32,
            },
        },
        "data": {
            "class_path": "datamodules.mixture.MixtureDataModule",
            "init_args": {"sources": sources, "weights": [3, 1], "single_source_batches": False},
        },
        "trainer": {
            "accelerator": "cpu", "max_steps": steps, "accumulate_grad_batches": 2, "limit_val_batches": 0,
            "enable_progress_bar": False, "enable_model_summary": False, "gradient_clip_val": 1.0,
            "callbacks": callbacks,
        },
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return folder / "config.yaml"


def start(config: Path, run: Path, processes: int, workers: int) -> subprocess.Popen[bytes]:
    """A life of a training, as a process group; it goes on from the last checkpoint."""
    run.mkdir(parents=True, exist_ok=True)
    logger = {"class_path": "lightning.pytorch.loggers.CSVLogger",
              "init_args": {"save_dir": str(run), "name": "", "version": ""}}  # fmt: skip
    command = [
        sys.executable, "-m", "pixel_llm", "fit", "--config", str(config), "--ckpt_path", "last",
        f"--trainer.logger={json.dumps(logger)}", f"--trainer.devices={processes}",
        f"--data.init_args.batch_size={GLOBAL_BATCH // processes}", f"--data.init_args.num_workers={workers}",
    ]  # fmt: skip
    if processes > 1:
        command.append("--trainer.strategy=ddp")
    with (run / "log").open("ab") as log:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)


def kill_at_some_moment(process: subprocess.Popen[bytes], run: Path, rng: random.Random) -> None:
    """SIGKILL to all processes of a life, from none to a dozen batches after its first one."""
    before, wanted = written(run), rng.randrange(0, 3 * STEPS_PER_KILL)
    deadline = time.monotonic() + PATIENCE
    while written(run) < before + wanted and process.poll() is None:
        if time.monotonic() > deadline:
            os.killpg(process.pid, signal.SIGKILL)
            raise RuntimeError(f"no new batch for {PATIENCE} seconds: see {run / 'log'}")
        time.sleep(0.005)
    if not wanted:
        time.sleep(rng.uniform(0, 8))  # while it starts
    time.sleep(rng.uniform(0, 0.1))
    if process.poll() not in (None, 0):
        raise RuntimeError(f"the training ended with code {process.returncode}: see {run / 'log'}")
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait(process: subprocess.Popen[bytes]) -> None:
    if process.wait():
        raise RuntimeError(f"a training that was left alone ended with code {process.returncode}")


def journals(run: Path) -> list[Path]:
    """What the processes of all lives wrote down, a file for each rank."""
    return sorted(run.glob("samples_rank_*.jsonl"))


def written(run: Path) -> int:
    """Lines of the journals, to look at often."""
    return sum(file.read_bytes().count(b"\n") for file in journals(run))


def lines(file: Path) -> list[dict[str, Any]]:
    """Those of a journal that were written whole."""
    return [json.loads(line) for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]


def batches(run: Path) -> dict[int, list[tuple[int, str]]]:
    """For each global batch its samples (place in the plan, source), as the last life that made it saw it."""
    ranks = [lines(file) for file in journals(run)]
    world = {line["batch"]: line["world"] for line in ranks[0]} if ranks else {}  # rank 0 is in every life
    found: dict[int, list[tuple[int, str]]] = {}
    for rank, journal in enumerate(ranks):
        last = {line["batch"]: line for line in journal if line["world"] == world.get(line["batch"])}
        for batch, line in last.items():
            if rank < line["world"]:
                found.setdefault(batch, []).extend(zip(line["places"], line["sources"], strict=True))
    return found


def compare(quiet: dict[int, Any], tortured: dict[int, Any]) -> tuple[int, int]:
    """Samples that are missing from their batches, and samples that are there without belonging."""
    lost = doubled = 0
    for batch in quiet.keys() | tortured.keys():
        wanted, got = quiet.get(batch, []), list(tortured.get(batch, []))
        for sample in wanted:
            if sample in got:
                got.remove(sample)
            else:
                lost += 1
        doubled += len(got)
    return lost, doubled


def write(same: Outcome, mixed: Outcome) -> None:
    """docs/torture.md, and the counts among docs/results.json."""
    figures = {
        "torture.kills": same.kills + mixed.kills,
        "torture.lost": same.lost + mixed.lost,
        "torture.doubled": same.doubled + mixed.doubled,
        "torture.diverged": same.diverged + mixed.diverged,
    }
    file = DOCS / "results.json"
    content = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(content | figures, indent=1) + "\n")
    rows = [
        f"| {name} | {o.kills} | {o.lost} | {o.doubled} | {o.difference:.1e} | {allowed} |"
        for name, o, allowed in (
            ("one process, 0 to 2 loading processes, dropout", same, "0"),
            ("one or two processes, 0 to 2 loading processes each", mixed, "1e-6"),
        )
    ]
    text = [
        "# Killed and gone on",
        "",
        "Written by `make torture`: a training is ended by SIGKILL at random moments and goes on from its last "
        "checkpoint; at the end its samples, batch by batch, and its weights are compared with those of a training "
        "that was left alone. Both have random views, two mixed sources, accumulated gradients and averaged weights.",
        "",
        "| layout | kills | samples lost | doubled | largest difference of a weight | allowed |",
        "|---|---|---|---|---|---|",
        *rows,
        "",
    ]
    (DOCS / "torture.md").write_text("\n".join(text))
    say("\n".join(rows))
    if any(figures[f"torture.{name}"] for name in ("lost", "doubled", "diverged")):
        sys.exit(1)


if __name__ == "__main__":
    main()
