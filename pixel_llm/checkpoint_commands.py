"""`pixel-llm inspect` says what a checkpoint holds, `pixel-llm export` makes a folder of it to give away."""

import argparse
import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from pixel_llm.tables import aligned
from pixel_llm.weights.checkpoint import find_checkpoint, read_checkpoint, tokenizer_of
from pixel_llm.weights.exported import write_exported
from pixel_llm.weights.frozen import frozen_file
from pixel_llm.weights.lora import merge_adapters


def inspect(arguments: Sequence[str]) -> None:
    """Print what a checkpoint is of and how large its parts are. Raises as `read_checkpoint` does."""
    parser = argparse.ArgumentParser(prog="pixel-llm inspect", description="what a checkpoint is of, and its parts")
    parser.add_argument("checkpoint", type=Path, help="a file, or a folder of shares, of an export or of a run")
    path = find_checkpoint(parser.parse_args(arguments).checkpoint)
    content = read_checkpoint(path)
    sys.stdout.write("\n".join(described(path, content)) + "\n")


def described(path: Path, content: Mapping[str, Any]) -> list[str]:
    """Lines about a checkpoint."""
    state, frozen = content["state_dict"], content.get("frozen")
    task = yaml.safe_load(content["config"])["model"]["class_path"].rpartition(".")[2]
    at = f" after {content['global_step']:,} steps, in epoch {content['epoch']}" if "global_step" in content else ""
    kinds = Counter[str]()
    for value in state.values():
        kinds[str(value.dtype).removeprefix("torch.")] += value.numel()
    numbers = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common())
    kept = f"frozen: {len(frozen['names'])} tensors, sha256 {frozen['sha256']}" if frozen else "frozen: nothing apart"
    optimiser = "with the optimiser's state" if content.get("optimizer_states") else "without an optimiser's state"
    return [f"{path}: {task}{at}, {optimiser}", f"numbers: {numbers}", kept, "", *aligned(_parts(state))]


def _parts(state: Mapping[str, Tensor]) -> list[list[str]]:
    """A row for each part of the core: its tensors and numbers."""
    tensors, numbers = Counter[str](), Counter[str]()
    for name, value in state.items():
        part = ".".join(name.split(".")[:2])
        tensors[part] += 1
        numbers[part] += value.numel()
    rows = [[part, f"{tensors[part]:,}", f"{numbers[part]:,}"] for part in sorted(numbers)]
    return [["part", "tensors", "numbers"], *rows]


def export(arguments: Sequence[str]) -> None:
    """Write weights, configuration and tokenizer into a folder. Raises as `read_checkpoint` and `write_exported` do."""
    parser = argparse.ArgumentParser(
        prog="pixel-llm export", description="a checkpoint -> a folder with safetensors, configuration and tokenizer"
    )
    parser.add_argument("checkpoint", type=Path, help="a file, a folder of shares or a run's folder")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="what to write")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--merge", action="store_true", help="add LoRA adapters to the weights that they adapt")
    how.add_argument("--trained-only", action="store_true", help="leave out what was frozen in that training")
    options = parser.parse_args(arguments)
    path = find_checkpoint(options.checkpoint)
    content = read_checkpoint(path)
    state, config, frozen = content["state_dict"], yaml.safe_load(content["config"]), None
    if options.merge:
        state = merge_adapters(state, config["model"])
    if options.trained_only:
        frozen = content.get("frozen")
        if not frozen:
            raise ValueError(f"{path}: says of nothing that it was frozen")
        state = {name: value for name, value in state.items() if name not in set(frozen["names"])}
    write_exported(options.out, state, yaml.safe_dump(config, sort_keys=False), tokenizer_of(content, path), frozen)
    size = sum(value.numel() * value.element_size() for value in state.values()) / 1e6
    sys.stdout.write(f"{options.out}: {len(state)} tensors, {size:,.1f} MB\n")
    if frozen:
        beside = frozen_file(path if path.is_dir() else path.parent, frozen["sha256"])
        copy = shlex.join(["cp", str(beside), str(options.out)])
        sys.stdout.write(f"it can be used with the frozen weights beside it: {copy}\n")
