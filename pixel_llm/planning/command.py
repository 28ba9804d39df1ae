"""`pixel-llm plan`: what a configuration's training would take on so many GPUs, before any of them is there."""

import argparse
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml
from jsonargparse import ActionConfigFile, set_parsing_settings
from torch import Tensor

from datamodules.shard_index import open_shards
from pixel_llm.planning.batches import Shape, Source, made_up_batch, sources
from pixel_llm.planning.budget import (
    GPU,
    GPUS,
    GPUS_PER_NODE,
    Memory,
    Rates,
    StepTime,
    Weights,
    arithmetic_of,
    exchanged_bytes,
    memory,
    step_time,
    weights_of,
)
from pixel_llm.planning.step_cost import StepCost, step_cost
from pixel_llm.predictor import build_task
from pixel_llm.tasks.base import Task

PARTS = {
    "weights": "weights",
    "gathered": "gathered blocks",
    "gradients": "gradients",
    "optimizer": "optimizer state",
    "activations": "activations",
    "copies": "weights as computed with",
}


@dataclass(frozen=True)
class Batches:
    """How a global batch is made: images of a process at once, times accumulated batches, times processes."""

    images: int
    accumulated: int
    gpus: int

    @property
    def total(self) -> int:
        return self.images * self.accumulated * self.gpus


def main(arguments: Sequence[str]) -> None:
    """Raises ValueError with one line for what cannot be planned."""
    defaults = Rates()
    parser = argparse.ArgumentParser(
        prog="pixel-llm plan",
        description=__doc__,
        epilog="Other options go to the configuration, as with fit: --config FILE (several), --data.batch_size 4, ..",
    )
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--gpu", choices=GPUS, default="h100")
    parser.add_argument("--global-batch", type=int, help="images of an optimizer step (default: as configured x GPUs)")
    parser.add_argument("--images", type=int, help="of the training set (default: those of shards that are here)")
    parser.add_argument("--utilisation", type=float, default=defaults.utilisation, help="of the peak (default: 0.35)")
    parser.add_argument("--dollars-per-gpu-hour", type=float, default=defaults.dollars, help="default: 2.50")
    parser.add_argument("--cores-per-gpu", type=int, default=defaults.cores, help="CPU cores that decode (default: 14)")
    options, rest = parser.parse_known_args(arguments)
    config = read_config(rest)
    rates = Rates(options.utilisation, options.dollars_per_gpu_hour, options.cores_per_gpu)
    for line in plan(config, options.gpus, options.gpu, rates, options.global_batch, options.images):
        print(line)


def read_config(arguments: Sequence[str]) -> dict[str, Any]:
    """The sections model, data and trainer as `fit` would read them, with all defaults."""
    from pixel_llm.trainer_cli import Parser

    allowed = ["pixel_llm", "datamodules", "callbacks", "lightning", "torch"]
    set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=allowed)
    parser = Parser(parser_mode="omegaconf")
    parser.add_argument("--config", action=ActionConfigFile)
    parser.add_argument("--seed_everything", type=int)
    parser.add_argument("--ckpt_path", type=str)
    parser.add_subclass_arguments(L.LightningModule, "model", required=True)
    parser.add_subclass_arguments(L.LightningDataModule, "data", required=True)
    parser.add_lightning_class_args(L.Trainer, "trainer")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return yaml.safe_load(parser.dump(parser.parse_args(list(arguments)), skip_none=False))


@dataclass(frozen=True)
class Counted:
    """Of one batch in one process: its operations on average over the sources, and the source that keeps the most."""

    forward: float
    backward: float
    largest: StepCost


def plan(
    config: dict[str, Any], gpus: int, gpu_name: str, rates: Rates, global_batch: int | None, images: int | None
) -> list[str]:
    """The report, line by line."""
    gpu, data, trainer = GPUS[gpu_name], config["data"]["init_args"], config["trainer"]
    precision = str(trainer["precision"] or "32-true")
    autocast, cast = arithmetic_of(precision)
    with torch.device("meta"):
        task = build_task(config["model"])
        task.make_training_parts()
    if cast is not None:
        task.to(cast)
    batches = split_batch(data["batch_size"], trainer["accumulate_grad_batches"], gpus, global_batch)
    side = data["sources"][0]["init_args"]["image_size"] if "sources" in data else data["image_size"]
    parts = sources(config["data"])
    recompute = _recomputes(trainer)
    features = _features(task, batches.images, side) if _has_features(data) else {}
    counted = _count(task, parts, batches.images, side, features, autocast=autocast, recompute=recompute)
    weights = weights_of(task.core, task)
    peak = gpu.peak if autocast or cast else gpu.peak_float32
    times = _step_times(counted, weights, batches, peak, gpu, rates)
    held = memory(weights, counted.largest.activations, counted.largest.weight_copies)
    seconds = times["DDP" if _fits(held, gpu.memory) else "FSDP"].seconds
    return [
        *_head(task, precision, batches, parts, side),
        "",
        *_memory_table(weights, counted.largest, gpus, gpu.memory),
        "",
        f"step (a {gpu_name} at {rates.utilisation:.0%} of {peak:g} TFLOP/s; all overlap, the slowest sets the pace)",
        f"  a batch of a GPU: forward {_tera(counted.forward)}, backward {_tera(counted.backward)}",
        *(f"  {name}: {_seconds(time)}" for name, time in times.items()),
        "",
        *_loader(seconds, batches, rates),
        "",
        *_stage(trainer, batches, seconds, rates, images or _images_here(parts, data)),
    ]


def _recomputes(trainer: dict[str, Any]) -> bool:
    """Whether activation checkpointing is among the callbacks."""
    return any(callback["class_path"].endswith(".ActivationCheckpointing") for callback in trainer["callbacks"] or [])


def _has_features(data: dict[str, Any]) -> bool:
    """Whether the data bring what frozen encoders made of the images before."""
    return any(part.get("features") for part in (data, *(source["init_args"] for source in data.get("sources", []))))


def _features(task: Task, images: int, side: int) -> dict[str, Tensor]:
    """What the frozen encoders would make of so many images, of its shape."""
    canvases = torch.zeros(images, 3, side, side, device="meta"), torch.zeros(images, 2, device="meta")
    made = {name: encoder(*canvases) for name, encoder in task.frozen_encoders().items()}
    return {name: torch.zeros(values.shape, dtype=torch.bfloat16) for name, values in made.items()}


def _count(
    task: Task, parts: Sequence[Source], images: int, side: int, features: dict[str, Tensor], **arithmetic: Any
) -> Counted:
    known: dict[tuple[str, Shape], StepCost] = {}
    for part in parts:
        for shape in (part.usual, part.largest):
            if (part.name, shape) not in known:
                sys.stderr.write(f"counting {part.name}, {shape.prompts} prompts of {shape.tokens} tokens an image\n")
                batch = replace(made_up_batch(task, part.name, shape, images, side), features=features)
                known[part.name, shape] = step_cost(task, batch, **arithmetic)
    usual = [(part.share, known[part.name, part.usual]) for part in parts]
    largest = (known[part.name, part.largest] for part in parts)
    return Counted(
        sum(share * cost.forward for share, cost in usual),
        sum(share * cost.backward for share, cost in usual),
        max(largest, key=lambda cost: cost.activations + cost.weight_copies),
    )


def _step_times(
    counted: Counted, weights: Weights, batches: Batches, peak: float, gpu: GPU, rates: Rates
) -> dict[str, StepTime]:
    operations = (counted.forward + counted.backward) * batches.accumulated
    images, gpus = batches.images * batches.accumulated, batches.gpus
    sent = {
        "DDP": exchanged_bytes(weights, gpus, False, batches.accumulated),
        "FSDP": exchanged_bytes(weights, gpus, True, batches.accumulated),
    }
    return {name: step_time(operations, images, size, gpus, peak, gpu, rates) for name, size in sent.items()}


def split_batch(batch_size: int, accumulated: int, gpus: int, global_batch: int | None) -> Batches:
    """As configured, or so that a given global batch comes out: first fewer accumulated batches, then smaller ones."""
    if global_batch is None:
        return Batches(batch_size, accumulated, gpus)
    each, rest = divmod(global_batch, gpus)
    images = min(batch_size, each)
    if rest or not images or each % images:
        raise ValueError(f"a global batch of {global_batch} cannot be made of {gpus} GPUs with batches of {batch_size}")
    return Batches(images, each // images, gpus)


def _head(task: Task, precision: str, batches: Batches, parts: Sequence[Source], side: int) -> list[str]:
    numbers = [p.numel() for p in task.parameters()], [p.numel() for p in task.parameters() if p.requires_grad]
    everything, trained = (f"{sum(n) / 1e6:,.1f} M" for n in numbers)
    lines = [
        f"{type(task).__name__}, {precision}: {everything} parameters, {trained} of them trained",
        f"global batch: {batches.images} images of {side} pixels x {batches.accumulated} accumulated x {batches.gpus} "
        f"GPUs = {batches.total:,}",
    ]
    for part in parts:
        usual, largest = part.usual, part.largest
        lines.append(
            f"  {part.name} ({part.share:.0%}): {usual.prompts} prompts of {usual.tokens} tokens an image,"
            f" at most {largest.prompts} of {largest.tokens} (memory)"
        )
    return lines


def _memory_table(weights: Weights, largest: StepCost, gpus: int, available: float) -> list[str]:
    kept = (largest.activations, largest.weight_copies)
    columns = {"DDP": memory(weights, *kept), f"FSDP/{gpus}": memory(weights, *kept, shares=gpus)}
    lines = [f"{'memory of a GPU, GB':<26}" + "".join(f"{name:>10}" for name in columns)]
    for part, name in PARTS.items():
        lines.append(f"  {name:<24}" + "".join(f"{getattr(m, part) / 1e9:>10.2f}" for m in columns.values()))
    lines.append(f"  {'together':<24}" + "".join(f"{m.total / 1e9:>10.2f}" for m in columns.values()))
    verdicts = ("fits" if _fits(m, available) else "does not" for m in columns.values())
    return [*lines, f"  {f'in {available:g} GB, a tenth spare':<24}" + "".join(f"{v:>10}" for v in verdicts)]


def _fits(held: Memory, available: float) -> bool:
    """Kernels' workspace, gaps between tensors and the CUDA context take a tenth."""
    return held.total / 1e9 < 0.9 * available


def _seconds(time: StepTime) -> str:
    each = ", ".join(f"{what} {seconds:.3g} s" for what, seconds in vars(time).items())
    return f"{time.seconds:.3g} s: {each}; first bottleneck: {time.bottleneck}"


def _loader(seconds: float, batches: Batches, rates: Rates) -> list[str]:
    rate = batches.total / seconds
    node = rate / batches.gpus * min(batches.gpus, GPUS_PER_NODE)
    read, cores = node * rates.image_kb / 1e6, node / rates.images_per_core
    return [
        f"loader: {rate:,.0f} images/s in all; for a node {node:,.0f}, {read:.2g} GB/s at {rates.image_kb:g} kB each, "
        f"{cores:.1f} cores that make {rates.images_per_core:g} images/s each"
    ]


def _stage(
    trainer: dict[str, Any], batches: Batches, seconds: float, rates: Rates, images: int | None
) -> list[str]:
    steps = trainer["max_steps"]
    what = f"{steps:,} steps"
    if steps is None or steps < 0:
        epochs = trainer["max_epochs"] or 1
        known = images or 1_000_000
        steps = epochs * (known // batches.total)
        what = f"{epochs} epochs of {known:,} images, {steps:,} steps"
        if images is None:
            what += " (a stand-in: --images N says how many there are)"
    hours = steps * seconds / 3600
    money = hours * batches.gpus * rates.dollars
    return [
        f"stage: {what}: {hours:,.1f} h, {hours * batches.gpus:,.0f} GPU hours, "
        f"{money:,.0f} dollars at {rates.dollars:.2f} an hour"
    ]


def _images_here(parts: Sequence[Source], data: dict[str, Any]) -> int | None:
    """Images of an epoch, where the shards are on this machine."""
    if data.get("samples_per_epoch"):
        return data["samples_per_epoch"]
    folders = [Path(folder) for part in parts for folder in part.folders]
    if not all(folder.is_dir() for folder in folders):
        return None
    return sum(len(index) for folder in folders for _, index in open_shards(folder))


def _tera(operations: float) -> str:
    return f"{operations / 1e12:,.3g} TFLOP"
