"""Measures what the toy configurations learn, and writes docs/results.md and docs/results.json.

    python -m benchmarks.results

Trains trace captioning twice from the same starting weights, once on blank images; from the first on, referring
localization and its masks; referring localization alone for as many steps as with traces; dense captioning and then
region captioning; and region captioning by the prompt feature extractor and by RoIAlign from the same weights,
three seeds each. All are tested on scenes never seen. Interrupted, it goes on where it was.
"""

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import torch

from benchmarks.region_results import attributes_right, shuffled_map
from datamodules.localized_narratives import LocalizedNarrativesDataModule
from pixel_llm.metrics.lbm import LocalBipartiteMatching

TRACE, REFERRING = "configs/trace/toy.yaml", "configs/referring/toy.yaml"
MASKS = "configs/referring/toy_segmentation.yaml"
DENSE, REGIONS = "configs/dense_captioning/toy.yaml", "configs/region_captioning/toy.yaml"
TRACE_STEPS, REFERRING_STEPS, MASK_STEPS = 3500, 3000, 1500
DENSE_STEPS, REGION_STEPS, EXTRACTOR_STEPS = 600, 2500, 600
SEED, EXTRACTOR_SEEDS = 0, (0, 1, 2)
RUNS = Path("runs/results")
PRETRAINED = Path("runs/toy")
DOCS = Path("docs")
SPLITS = ("test", "test_unseen_pairs")
CHECKPOINT = {"class_path": "callbacks.last_checkpoint.LastCheckpoint"}

Figures = dict[str, float]

AIMS = {
    "trace.lbm_k0": "at most 0.3 x lbm_k0_blank and 0.3 x lbm_k0_constant",
    "trace.cider": "at least 3 x cider_blank",
    "trace.object_words_inside": "at least 0.85",
    "trace.object_words_inside_unseen_pairs": "at most 0.10 below object_words_inside",
    "referring.p50": "at least 0.90",
    "referring.ciou": "at least 0.78",
    "referring.p50_blank": "at most 0.25",
    "referring.p50_without_trace": "at least 0.05 below referring.p50, or the curve",
    "dense.map": "at least 0.45",
    "dense.map_shuffled": "at most a fifth of dense.map",
    "dense.detection_map": "at least 0.70",
    "regions.attributes_right": "at least 0.90",
    "pixel_sail.ciou": "at least 0.70",
    "pixel_sail.ciou_plain": "clearly below pixel_sail.ciou_ladder",
    "pixel_sail.attributes_right": "at least 0.85",
    "pixel_sail.attributes_right_no_prompt": "near chance",
    "pixel_sail.minutes": "at most 20",
    "regions.attributes_right_roialign": "beside regions.attributes_right_prompt",
}


def main() -> None:
    figures = trace_figures() | referring_figures() | region_figures()
    write(figures, minutes=json.loads((RUNS / "seconds.json").read_text()))


def trace_figures() -> Figures:
    """Trace captioning, on images and on black ones."""
    figures: Figures = {}
    for name, blank in (("trace", False), ("trace_blank", True)):
        run, blanked = RUNS / name, f"--data.blank_images={str(blank).lower()}"
        fit(TRACE, run, TRACE_STEPS, TRACE_STEPS // 2, blanked)
        tested = {
            split: test(TRACE, run, split, f"--data.test_shards=[toy/shards/narratives_{split}]", blanked)
            for split in SPLITS
        }
        suffix = "_blank" if blank else ""
        locations = ("lbm_k0", "lbm_k1", "point_l1", "object_words_inside")
        for metric in (*locations, "cider", "bleu4", "rouge_l", "meteor", "meteor_python"):
            if metric in tested["test"]:
                figures[f"trace.{metric}{suffix}"] = tested["test"][metric]
        unseen = tested["test_unseen_pairs"]["object_words_inside"]
        figures[f"trace.object_words_inside_unseen_pairs{suffix}"] = unseen
    figures["trace.lbm_k0_constant"] = constant_lbm()
    return figures


def referring_figures() -> Figures:
    """Referring with masks after trace captioning, the same model on black images, and referring alone."""
    located, masked, alone = (RUNS / f"referring{name}" for name in ("", "_segmentation", "_without_trace"))
    fit(REFERRING, located, REFERRING_STEPS, 250, start_from(RUNS / "trace"))
    fit(MASKS, masked, MASK_STEPS, 250, start_from(located))
    tested = test(MASKS, masked, "test")
    blank = test(MASKS, masked, "test_blank", "--data.blank_images=true")
    start = start_from(PRETRAINED / "pretrain_attributes")
    words = f"--model.weights.init_args.language_model={checkpoint(PRETRAINED / 'pretrain_language_model')}"
    fit(REFERRING, alone, TRACE_STEPS + REFERRING_STEPS, 500, start, words)
    without = test(REFERRING, alone, "test")
    shown, unseen = "toy_unc_test", "toy_unc_test_unseen_pairs"
    names = {"p50": "p50", "box_iou": "box_iou", "ciou": "ciou", "giou": "giou", "p50_relations": "p50_relation"}
    names |= {"ciou_relations": "ciou_relation", "p50_attributes": "p50_attributes", "p50_places": "p50_place"}
    figures = {f"referring.{name}": tested[f"{shown}/{key}"] for name, key in names.items()}
    return figures | {
        "referring.p50_unseen_pairs": tested[f"{unseen}/p50"],
        "referring.ciou_unseen_pairs": tested[f"{unseen}/ciou"],
        "referring.p50_blank": blank[f"{shown}/p50"],
        "referring.p50_without_trace": without[f"{shown}/p50"],
        "referring.p50_relations_without_trace": without[f"{shown}/p50_relation"],
    }


def region_figures() -> Figures:
    """Dense captioning, region captioning after it, and the two ways to draw a region's features from the image."""
    dense, regions = RUNS / "dense_captioning", RUNS / "region_captioning"
    fit(DENSE, dense, DENSE_STEPS, 300)
    tested, unseen = (
        of_split(test(DENSE, dense, split, f"--data.test_shards=[{shards(split)}]"), f"toy_{split}") for split in SPLITS
    )
    fit(REGIONS, regions, REGION_STEPS, 500, start_from(dense))
    scores = of_split(test(REGIONS, regions, "test"), "toy_test")
    names = ("map", "detection_map", "ap", "ap50", "ap75")
    figures = {f"dense.{name}": tested[name] for name in names if name in tested}
    if "map" in tested:
        figures["dense.map_shuffled"] = shuffled_map(dense / "test.jsonl", shards("test"), SEED)
        figures["dense.map_unseen_pairs"] = unseen["map"]
    figures |= {f"regions.{name}": scores[name] for name in ("cider", "meteor", "bleu4") if name in scores}
    figures["regions.attributes_right"] = attributes_right(regions / "test.jsonl", shards("test"))
    for key, name in (("prompt", "prompt"), ("roialign", "roi_align")):
        right = [extractor(name, seed) for seed in EXTRACTOR_SEEDS]
        figures[f"regions.attributes_right_{key}"] = mean(right)
        figures[f"regions.attributes_right_{key}_spread"] = stdev(right)
    return figures


def of_split(figures: Figures, split: str) -> Figures:
    """The figures of one split, without its name."""
    return {name.removeprefix(f"{split}/"): value for name, value in figures.items() if name.startswith(f"{split}/")}


def extractor(name: str, seed: int) -> float:
    """Share of right attributes after training with one way to draw features from the image."""
    config, run = f"configs/ablations/extractor_{name}.yaml", RUNS / f"extractor_{name}" / f"seed_{seed}"
    fit(config, run, EXTRACTOR_STEPS, EXTRACTOR_STEPS, f"--data.seed={seed}", seed=seed)
    test(config, run, "test")
    return attributes_right(run / "test.jsonl", shards("test"))


def shards(split: str) -> Path:
    return Path(f"toy/shards/regions/toy_{split}")


def start_from(run: Path) -> str:
    """The argument by which a model starts from another run."""
    return f"--model.weights.init_args.core={checkpoint(run)}"


def checkpoint(run: Path) -> Path:
    return run / "checkpoints/last.ckpt"


def fit(config: str, run: Path, steps: int, validate_every: int, *arguments: str, seed: int = SEED) -> None:
    """Train, unless it is done."""
    length = [f"--trainer.max_steps={steps}", f"--trainer.val_check_interval={validate_every}"]
    length += ["--trainer.limit_val_batches=1.0"]
    lightning("fit", config, run, f"--seed_everything={seed}", *length, *arguments)


def test(config: str, run: Path, name: str, *arguments: str) -> Figures:
    """The figures of one run, written under a name."""
    report = {"class_path": "callbacks.evaluation_report.EvaluationReport", "init_args": {"name": name}}
    callbacks = f"--trainer.callbacks={json.dumps([CHECKPOINT, report])}"
    lightning("test", config, run, callbacks, *arguments, done=run / f"{name}.json")
    return json.loads((run / f"{name}.json").read_text())


def lightning(verb: str, config: str, run: Path, *arguments: str, done: Path | None = None) -> None:
    """Run a command of the trainer in a folder of its own, unless it was done before.

    The seconds it took go into a file.
    """
    done = done or run / f"{verb}.done"
    if done.exists():
        return
    began = time.monotonic()
    command = [sys.executable, "-m", "pixel_llm", verb, "--config", config, "--ckpt_path=last", *arguments]
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
    for batch in data.evaluation_loader("val"):
        for reference in batch.references:
            for position, box in enumerate(reference.boxes if reference else []):
                if box:
                    seen.setdefault(position, []).append(box)
    constant = [np.median(seen[position], axis=0).tolist() for position in sorted(seen)]
    metric = LocalBipartiteMatching(k=0)
    for batch in data.evaluation_loader("test"):
        references = [reference for reference in batch.references if reference]
        guesses = [(constant + [constant[-1]] * len(r.boxes))[: len(r.boxes)] for r in references]
        metric.update(guesses, [reference.boxes for reference in references])
    return float(metric.compute())


def curve(run: Path) -> list[tuple[int, float]]:
    """Step and P@0.5 of every validation of a run."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found: dict[int, float] = {}
    for file in sorted(run.glob("events.out.*")):
        events = EventAccumulator(str(file))
        events.Reload()
        name = "val/toy_unc_val/p50"
        if name in events.Tags()["scalars"]:
            found |= {event.step + 1: event.value for event in events.Scalars(name)}
    return sorted(found.items())


def write(figures: Figures, minutes: dict[str, float]) -> None:
    """docs/results.json: figures with seed, commit and minutes; docs/results.md: the same for people."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    total = round(sum(minutes.values()) / 60, 1)
    file = DOCS / "results.json"
    others = json.loads(file.read_text()) if file.exists() else {}
    measured = ("torture.", "pixel_sail.")  # by the benchmarks of these names
    figures |= {name: value for name, value in others.items() if name.startswith(measured)}
    content = {k: round(v, 4) for k, v in sorted(figures.items())} | {"seed": SEED, "commit": commit, "minutes": total}
    file.write_text(json.dumps(content, indent=1) + "\n")
    machine = f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}, torch {torch.__version__}"
    curves = {name: curve(RUNS / f"referring{name}") for name in ("", "_without_trace")}
    lines = [
        "# What the toy configurations learn",
        "",
        f"Written by `make results`, seed {SEED}, commit {commit}; training and tests took {total} minutes after the "
        f"pretraining stages ({machine}). Scenes of both splits were never seen in training; in `unseen_pairs` no "
        "object's pair of shape and colour was.",
        "",
        f"`trace`: `{TRACE}` for {TRACE_STEPS} steps; `_blank` is the same training on black images, `_constant` the "
        f"median box of each word position. `referring`: `{REFERRING}` for {REFERRING_STEPS} steps after `trace`, then "
        f"`{MASKS}` for {MASK_STEPS}; `_blank` is the same model on black images, `_without_trace` referring alone for "
        f"{TRACE_STEPS + REFERRING_STEPS} steps from the same pretrained parts; `_relations`, `_places` and "
        "`_attributes` are the expressions of each kind.",
        "",
        f"`dense`: `{DENSE}` for {DENSE_STEPS} steps from pretrained encoders and language model; mAP with references "
        "merged at IoU 0.7, `_shuffled` "
        f"with the sentences of all detections dealt out anew. `regions`: `{REGIONS}` for {REGION_STEPS} steps after "
        "`dense`; `attributes_right` is the share of boxes whose sentence names colour, size and shape right. "
        f"`_prompt` and `_roialign` are `configs/ablations/extractor_*.yaml` for {EXTRACTOR_STEPS} steps from "
        f"pretrained encoders and language model, mean and standard deviation of {len(EXTRACTOR_SEEDS)} seeds. "
        "`pixel_sail` and `torture` are of benchmarks of their own: [pixel_sail.md](pixel_sail.md), "
        "[torture.md](torture.md).",
        "",
        "| key | value | wanted |",
        "|---|---|---|",
        *(f"| `{key}` | {value:.4f} | {AIMS.get(key, '')} |" for key, value in sorted(figures.items())),
        "",
        "P@0.5 on the validation split after so many steps of referring:",
        "",
        *(
            f"- {label}: " + ", ".join(f"{step}: {value:.3f}" for step, value in curves[name])
            for label, name in (("after trace captioning", ""), ("referring alone", "_without_trace"))
        ),
    ]
    (DOCS / "results.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
