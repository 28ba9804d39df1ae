"""Measures what the toy configuration learns, and writes docs/results.md and docs/results.json.

    python -m benchmarks.results

Trains trace captioning twice from the same starting weights, once on blank images; both are tested on scenes never
seen and on pairs of attributes never seen together. Interrupted, it goes on where it was.
"""

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from datamodules.localized_narratives import LocalizedNarrativesDataModule
from pixel_llm.metrics.lbm import LocalBipartiteMatching

CONFIG = "configs/trace/toy.yaml"
STEPS = 3500
SEED = 0
RUNS = Path("runs/results")
DOCS = Path("docs")
SPLITS = ("test", "test_unseen_pairs")

Figures = dict[str, float]

AIMS = {
    "trace.lbm_k0": "at most 0.3 x lbm_k0_blank and 0.3 x lbm_k0_constant",
    "trace.cider": "at least 3 x cider_blank",
    "trace.object_words_inside": "at least 0.85",
    "trace.object_words_inside_unseen_pairs": "at most 0.10 below object_words_inside",
}


def main() -> None:
    figures: Figures = {}
    for name, blank in (("trace", False), ("trace_blank", True)):
        run = RUNS / name
        train(run, blank)
        tested = {split: test(run, split, blank) for split in SPLITS}
        suffix = "_blank" if blank else ""
        for metric in ("lbm_k0", "lbm_k1", "point_l1", "object_words_inside", "cider", "bleu4", "rouge_l", "meteor"):
            if metric in tested["test"]:
                figures[f"trace.{metric}{suffix}"] = tested["test"][metric]
        unseen = tested["test_unseen_pairs"]["object_words_inside"]
        figures[f"trace.object_words_inside_unseen_pairs{suffix}"] = unseen
    figures["trace.lbm_k0_constant"] = constant_lbm()
    write(figures, minutes=json.loads((RUNS / "seconds.json").read_text()))


def train(run: Path, blank: bool) -> None:
    """Fit, unless it is done."""
    length = [f"--trainer.max_steps={STEPS}", f"--trainer.val_check_interval={STEPS // 2}"]
    lightning("fit", run, f"--seed_everything={SEED}", *length, f"--data.blank_images={str(blank).lower()}")


def test(run: Path, split: str, blank: bool) -> Figures:
    """The figures of one run on one split."""
    report = {"class_path": "callbacks.evaluation_report.EvaluationReport", "init_args": {"name": split}}
    lightning(
        "test", run, f"--data.test_shards=[toy/shards/narratives_{split}]", f"--data.blank_images={str(blank).lower()}",
        f"--trainer.callbacks={json.dumps([CHECKPOINT, report])}", done=run / f"{split}.json",
    )  # fmt: skip
    return json.loads((run / f"{split}.json").read_text())


CHECKPOINT = {"class_path": "callbacks.last_checkpoint.LastCheckpoint"}


def lightning(verb: str, run: Path, *arguments: str, done: Path | None = None) -> None:
    """Run a command of the trainer on the toy configuration in a folder of its own, unless it was done before.

    The seconds it took go into a file.
    """
    done = done or run / f"{verb}.done"
    if done.exists():
        return
    began = time.monotonic()
    command = [sys.executable, "-m", "pixel_llm", verb, "--config", CONFIG, "--ckpt_path=last", *arguments]
    subprocess.run([*command, f"--trainer.logger.init_args.save_dir={run}"], check=True)
    ledger = RUNS / "seconds.json"
    seconds = json.loads(ledger.read_text()) if ledger.exists() else {}
    ledger.write_text(json.dumps(seconds | {str(done): time.monotonic() - began}))
    done.touch()


def constant_lbm() -> float:
    """LBM (k = 0) of the best constant guess: for each word position the median box of the training narratives."""
    data = LocalizedNarrativesDataModule(
        train_shards=["toy/shards/narratives_train"], val_shards=["toy/shards/narratives_train"],
        test_shards=["toy/shards/narratives_test"], tokenizer="toy/tokenizer", sentences=False, max_tokens=112,
        image_size=96, num_workers=0,
    )  # fmt: skip
    seen: dict[int, list[tuple[float, ...]]] = {}
    for batch in data.val_dataloader():
        for reference in batch.references:
            for position, box in enumerate(reference.boxes if reference else []):
                if box:
                    seen.setdefault(position, []).append(box)
    constant = [np.median(seen[position], axis=0).tolist() for position in sorted(seen)]
    metric = LocalBipartiteMatching(k=0)
    for batch in data.test_dataloader():
        references = [reference for reference in batch.references if reference]
        guesses = [(constant + [constant[-1]] * len(r.boxes))[: len(r.boxes)] for r in references]
        metric.update(guesses, [reference.boxes for reference in references])
    return float(metric.compute())


def write(figures: Figures, minutes: dict[str, float]) -> None:
    """docs/results.json: figures with seed, commit and minutes; docs/results.md: the same for people."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    total = round(sum(minutes.values()) / 60, 1)
    content = {k: round(v, 4) for k, v in sorted(figures.items())} | {"seed": SEED, "commit": commit, "minutes": total}
    (DOCS / "results.json").write_text(json.dumps(content, indent=1) + "\n")
    machine = f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}, torch {torch.__version__}"
    lines = [
        "# What the toy configuration learns",
        "",
        f"Written by `make results`: `{CONFIG}` for {STEPS} steps, seed {SEED}, commit {commit}; training and tests "
        f"took {total} minutes after the pretraining stages ({machine}). Scenes of both splits were never seen in "
        "training; in `unseen_pairs` no object's pair of shape and colour was. `_blank` is the same training on black "
        "images, `_constant` the median box of each word position.",
        "",
        "| key | value | wanted |",
        "|---|---|---|",
        *(f"| `{key}` | {value:.4f} | {AIMS.get(key, '')} |" for key, value in sorted(figures.items())),
    ]
    (DOCS / "results.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
