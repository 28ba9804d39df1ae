"""Trains the single transformer with and without the paper's additions, and PixelLLM for as long, on the toy world; and
what has learned there on PerBench's tasks.

    python -m benchmarks.pixel_sail [--jobs 2]

Writes docs/pixel_sail.md, and the keys `pixel_sail.*` of docs/results.json. First comes the toy configuration as it is,
which takes two processes; the others run side by side, one to a core. Interrupted, it goes on where it was.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from benchmarks.ablations import lightning, side_by_side, weights
from benchmarks.mask_head_memory import peak, start_of_peak
from benchmarks.region_results import kinds_right
from pixel_llm.predictor import Predictor

SAIL, PERBENCH = "pixel_sail/toy.yaml", "pixel_sail/perbench.yaml"
PARTS = {"visual": "pretrain_attributes", "language_model": "pretrain_language_model", "sam": "pretrain_sam"}
PRETRAINED = {part: f"runs/toy/{run}/checkpoints/last.ckpt" for part, run in PARTS.items()}
STEPS = 1200
REFERRING_STEPS, MASK_STEPS, REGION_STEPS = 1800, 850, 1200
SPLIT, REGIONS = "toy_unc_test", Path("toy/shards/regions/toy_test")
IMAGES, QUERIES = sorted(Path("toy/raw/images/test").glob("*.jpg"))[:40], ("the large circle", "the star on the left")
RUNS, DOCS = Path("runs/pixel_sail"), Path("docs")
TOY, LEARNED, UNLEARNED = (RUNS / name for name in ("toy", "perbench", "perbench_unlearned"))
PERBENCH_SPLIT, PERBENCH_PARTS = "toy_perbench_test", ("meteor", "accuracy", "ciou", "giou", "overall")
_CORE = "--model.init_args.core.init_args"
_ALONE = ("--trainer.devices=1", "--trainer.strategy=auto", "--data.init_args.batch_size=16")

Figures = dict[str, float]


@dataclass(frozen=True)
class Row:
    """One training of the single transformer.  arguments: how it differs from the toy configuration."""

    key: str
    name: str
    arguments: tuple[str, ...] = ()


_NO_LESSONS = "--model.init_args.distillation=null"
_NO_MARKS = f"{_CORE}.inject_visual_prompts=false"
ROWS = (
    Row("plain", "plain baseline", (f"{_CORE}.mask_stride=8", _NO_MARKS, _NO_LESSONS)),
    Row("upsampling", "+ learned upsampling", (_NO_MARKS, _NO_LESSONS)),
    Row("prompts", "+ visual prompts", (_NO_LESSONS,)),
    Row("whole", "+ distillation"),
)


def main() -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=cores, help="trainings side by side (default: one to a core)")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(query_cost(args.measure)))
        return
    threads = max(1, cores // args.jobs)
    for verb in ("fit", "test"):
        lightning(verb, SAIL, TOY, 1)
    jobs: list[Callable[[], None]] = [partial(train, row, threads) for row in (ROWS[-1], *ROWS[:-1])]
    side_by_side(args.jobs, [jobs[0], partial(train_pixel_llm, threads), *jobs[1:]])
    perbench(cores)
    ladder = {row.key: sail_figures(RUNS / row.key) for row in ROWS}
    write(ladder, sail_figures(TOY) | measured(TOY), pixel_llm_figures())


def train(row: Row, threads: int) -> None:
    """Train and test one row."""
    for verb in ("fit", "test"):
        lightning(verb, SAIL, RUNS / row.key, threads, f"--trainer.max_steps={STEPS}", *_ALONE, *row.arguments)


def train_pixel_llm(threads: int) -> None:
    """PixelLLM from its pretrained parts: boxes of expressions, then their masks; and sentences of boxes."""
    boxes, masks, regions = (RUNS / f"pixel_llm_{stage}" for stage in ("boxes", "masks", "regions"))
    parts = {name: PRETRAINED[name] for name in ("visual", "language_model")}
    located = weights(core=str(boxes / "checkpoints/last.ckpt"), sam=PRETRAINED["sam"])
    steps = "--trainer.max_steps={}".format
    lightning("fit", "referring/toy.yaml", boxes, threads, steps(REFERRING_STEPS), weights(**parts))
    for verb in ("fit", "test"):
        lightning(verb, "referring/toy_segmentation.yaml", masks, threads, steps(MASK_STEPS), located)
    for verb in ("fit", "test"):
        lightning(verb, "ablations/extractor_prompt.yaml", regions, threads, steps(REGION_STEPS), weights(**parts))


def perbench(threads: int) -> None:
    """The toy's checkpoint on PerBench's tasks as it is, and after it has learned them."""
    checkpoint = str(TOY / "checkpoints/last.ckpt")
    lightning("test", PERBENCH, UNLEARNED, threads, f"--ckpt_path={checkpoint}")
    for verb in ("fit", "test"):
        lightning(verb, PERBENCH, LEARNED, threads, weights(core=checkpoint))


def sail_figures(run: Path) -> Figures:
    tested = json.loads((run / "test.json").read_text())
    figures = {name: tested[f"{SPLIT}/{name}"] for name in ("ciou", "mask_box_p50", "ciou_relation")}
    figures["meteor"] = tested["toy_test/meteor"]
    return figures | attributes(run / "test_region_dialogues.jsonl") | {"minutes": minutes(run)}


def pixel_llm_figures() -> Figures:
    boxes, masks, regions = (RUNS / f"pixel_llm_{stage}" for stage in ("boxes", "masks", "regions"))
    tested, said = (json.loads((run / "test.json").read_text()) for run in (masks, regions))
    figures = {name: tested[f"{SPLIT}/{name}"] for name in ("ciou", "mask_box_p50", "ciou_relation")}
    figures |= {"box_p50": tested[f"{SPLIT}/p50"], "meteor": said["toy_test/meteor"]}
    figures |= attributes(regions / "test.jsonl")
    return figures | {"minutes": sum(map(minutes, (boxes, masks, regions)))} | measured(masks)


def attributes(predictions: Path) -> Figures:
    """Shares of sentences about regions that name the colour, size and shape right, and all of them."""
    right = kinds_right(predictions, REGIONS)
    kinds = dict(zip(("colour", "size", "shape"), right.mean(0).tolist(), strict=True))
    return kinds | {"attributes_right": float(right.all(1).mean())}


def minutes(run: Path) -> float:
    return float((run / "fit.done").read_text()) / 60


def measured(run: Path) -> Figures:
    """`query_cost` of a run's checkpoint, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.pixel_sail", "--measure", str(run)]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def query_cost(run: Path) -> Figures:
    """Of a checkpoint that segments what a query names: parameters, milliseconds by the clock for one query about one
    photo, with one thread, and the most memory that takes beyond the loaded model, in MB.
    """
    torch.set_num_threads(1)
    model = Predictor(run)
    photos = [path.read_bytes() for path in IMAGES]
    model.refer(photos[0], QUERIES[0])
    before, began = start_of_peak(), time.perf_counter()
    for photo in photos:
        for query in QUERIES:
            model.refer(photo, query)
    seconds, memory = time.perf_counter() - began, peak() - before
    parameters = sum(weight.numel() for weight in model.task.core.parameters())
    return {
        "parameters": parameters,
        "milliseconds": 1000 * seconds / len(photos) / len(QUERIES),
        "megabytes": memory / 1e6,
    }


def write(ladder: dict[str, Figures], toy: Figures, other: Figures) -> None:
    """docs/pixel_sail.md, and the figures asked for among docs/results.json."""
    file = DOCS / "results.json"
    content = json.loads(file.read_text()) if file.exists() else {}
    figures = {
        "ciou": toy["ciou"],
        "ciou_plain": ladder["plain"]["ciou"],
        "ciou_no_distillation": ladder["prompts"]["ciou"],
        "ciou_ladder": ladder["whole"]["ciou"],
        "p50": toy["mask_box_p50"],
        "attributes_right": toy["attributes_right"],
        "attributes_right_no_prompt": ladder["upsampling"]["attributes_right"],
        "minutes": toy["minutes"],
    }
    content |= {f"pixel_sail.{name}": round(value, 4) for name, value in figures.items()}
    file.write_text(json.dumps(content, indent=1) + "\n")
    (DOCS / "pixel_sail.md").write_text(document(ladder, toy, other))
    sys.stderr.write(f"written: {DOCS / 'pixel_sail.md'}\n")


def document(ladder: dict[str, Figures], toy: Figures, other: Figures) -> str:
    additions = [[row.name, *shares(ladder[row.key]), f"{ladder[row.key]['minutes']:.0f}"] for row in ROWS]
    beside = [
        [name, *shares(figures), f"{cores * figures['minutes']:.0f}", *costs(figures)]
        for name, figures, cores in (("PixelLLM", other, 1), ("Pixel-SAIL", toy, 2))
    ]
    asked = [
        [name, mode, *perbench_shares(run, mode)]
        for name, run in (("none of them", UNLEARNED), ("all three", LEARNED))
        for mode in ("strict", "paper")
    ]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    head = HEAD.format(
        commit=commit, steps=STEPS, boxes=REFERRING_STEPS, masks=MASK_STEPS, regions=REGION_STEPS,
        queries=len(IMAGES) * len(QUERIES), box_p50=100 * other["box_p50"], toy=toy, other=other,
        perbench_minutes=minutes(LEARNED),
    )  # fmt: skip
    first, second, third = head.split("\n---\n")
    names = ["cIoU", "of relations", "P@0.5", "METEOR", "attributes right"]
    tables = [
        table(["", *names, "minutes"], additions),
        table(["", *names, "minutes of a core", "parameters, M", "ms per query", "memory, MB"], beside),
        table(["has learned", "mode", "METEOR", "accuracy", "cIoU", "gIoU", "overall"], asked),
    ]
    return f"{first}\n\n{tables[0]}\n{second}\n\n{tables[1]}\n{third}\n{tables[2]}"


HEAD = """# The single transformer on the toy world

Written by `make pixel-sail-results` at commit {commit}, seed 0. Scenes were never seen in training. Shares in percent;
P@0.5 is of the box around the mask; METEOR and the share of sentences that name colour, size and shape right are of
regions shown to the model by a box.

## What the additions bring

`configs/pixel_sail/toy.yaml` for {steps} steps in one process, each row with one more of the paper's additions; on one
core each, two trainings at a time. Minutes are those of the clock.
---
## Beside PixelLLM

The same shards, images of 96 pixels and about the same time of training; Pixel-SAIL's is
`configs/pixel_sail/toy.yaml` as it is, {toy[minutes]:.0f} minutes on two cores, and PixelLLM was trained on one.
PixelLLM has a SAM image encoder and another one, which were trained before and from which Pixel-SAIL learns by
distillation, and a language model that has read the toy's texts; its stages get {boxes} steps for the boxes of
expressions, {masks} for their masks from the box as a prompt, and, a model of its own, {regions} for sentences of
regions. The P@0.5 of its regressed boxes is {box_p50:.1f}. A query is one expression about one photo, by
`Predictor.refer` with one thread, the mean of {queries}; memory is the most that is taken beyond the loaded model.
The colour of a region is named right in {toy[colour]:.1%} of Pixel-SAIL's sentences, its size in {toy[size]:.1%}, its
shape in {toy[shape]:.1%}; of PixelLLM's in {other[colour]:.1%}, {other[size]:.1%} and {other[shape]:.1%}.
---
## PerBench of the toy world

`lightning test --config configs/pixel_sail/perbench.yaml`: the checkpoint above as it is, which has learned none of
the three tasks, and after `lightning fit` with the same configuration ({perbench_minutes:.0f} minutes). The published
mode counts the masks that a second attempt forces; its METEOR is nltk's without WordNet's synonyms.
"""


def shares(figures: Figures) -> list[str]:
    names = ("ciou", "ciou_relation", "mask_box_p50", "meteor", "attributes_right")
    return [f"{100 * figures[name]:.1f}" for name in names]


def perbench_shares(run: Path, mode: str) -> list[str]:
    """METEOR, accuracy, cIoU, gIoU and the overall score; names say which METEOR was counted."""
    figures = json.loads((run / "test.json").read_text())
    split = PERBENCH_SPLIT if mode == "strict" else f"{PERBENCH_SPLIT}/{mode}"
    names = [next(name for name in figures if name.startswith(f"{split}/{part}")) for part in PERBENCH_PARTS]
    return [f"{100 * figures[name]:.1f}" for name in names]


def costs(figures: Figures) -> list[str]:
    return [
        f"{figures['parameters'] / 1e6:.2f}",
        f"{figures['milliseconds']:.0f}",
        f"{figures['megabytes']:.0f}",
    ]


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


if __name__ == "__main__":
    main()
