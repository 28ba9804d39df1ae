"""Checkpoints of ours: Lightning's files with the configuration inside."""

from pathlib import Path
from typing import Any

import torch
import yaml

from pixel_llm.weights.exported import CONFIG, WEIGHTS, read_exported
from pixel_llm.weights.frozen import join_frozen
from pixel_llm.weights.shards import read_share, read_shares


def find_checkpoint(path: Path) -> Path:
    """The file itself, or the `last.ckpt` below a folder.

    FileNotFoundError where there is none. ValueError with one line where there are several: which one is the newest
    cannot be told from files' times, since clocks jump and files are copied.
    """
    if path.is_file() or any((path / name).is_file() for name in ("rank_00000.pt", WEIGHTS)):
        return path
    found = sorted(path.rglob("last.ckpt"))
    if not found:
        raise FileNotFoundError(f"no checkpoint at {path}")
    if len(found) > 1:
        raise ValueError(f"{path}: {len(found)} checkpoints, name one of {', '.join(map(str, found[:5]))}")
    return found[0]


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint of ours, a file or a folder of shares or of an export, with its frozen weights.

    Nothing is executed. Its tensors are mapped from the file, not copied. Raises ValueError for another file, and what
    `join_frozen` raises.
    """
    if path.is_dir():
        return read_exported(path) if (path / WEIGHTS).is_file() else read_shares(path)
    content = _read(path)
    join_frozen(content, path)
    return content


def read_config(path: Path) -> str:
    """The configuration in a checkpoint of ours, without its weights. Raises as `read_checkpoint`."""
    if path.is_dir():
        return (path / CONFIG).read_text() if (path / WEIGHTS).is_file() else read_share(path, 0)["config"]
    return _read(path)["config"]


def check_task(config: str, own: str, path: Path | str, training: bool) -> None:
    """ValueError with one line where a configuration is of another task; one of joint training can be evaluated."""
    theirs = (yaml.safe_load(config) or {}).get("model", {}).get("class_path", "").rpartition(".")[2]
    if theirs and theirs != own and (training or theirs != "JointTraining"):
        raise ValueError(f"{path}: a checkpoint of {theirs}, not of {own}")


def _read(path: Path) -> dict[str, Any]:
    """What a file holds, without the frozen weights beside it."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # many kinds, all of them meaning this
        raise ValueError(f"{path}: not a checkpoint, or a damaged one") from None
    if not isinstance(content, dict) or not {"config", "state_dict"} <= set(content):
        raise ValueError(f"{path}: not a checkpoint of pixel_llm (no configuration inside)")
    return content


def largest_difference(one: Path, other: Path) -> float:
    """Between the weights of two trainings' last checkpoints, without the biases of attention keys.

    The softmax takes those away: their gradients are rounding alone, which AdamW makes steps of.
    """
    state, others = (read_checkpoint(find_checkpoint(run))["state_dict"] for run in (one, other))
    names = [n for n in state if not n.endswith(("k_proj.bias", "qkv.bias")) and state[n].numel()]
    return max(float((state[name].double() - others[name].double()).abs().max()) for name in names)


def tokenizer_of(content: dict[str, Any], path: Path) -> str:
    """The tokenizer that a checkpoint carries, as json; ValueError where it has none."""
    for value in content.values():
        if isinstance(value, dict) and "tokenizer" in value:
            return value["tokenizer"]
    raise ValueError(f"{path}: holds no tokenizer")
