"""Frozen weights, which never change in a run: written once beside its checkpoints, which say which ones they need.

A checkpoint of ours has an entry "frozen": `names` of the frozen parameters when it is handed over, which become
`sha256` and `aliases` (other names of one tensor) in the file, and all three when it has been read. The weights are in
`frozen-SHA.safetensors` beside it.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pixel_llm.weights.tensor_files import read_safetensors
from pixel_llm.whole_files import whole_file

STATES = ("state_dict", "current_model_state")  # the second with averaged weights, which then are the first


def split_frozen(checkpoint: dict[str, Any], folder: Path, known: dict[tuple[str, ...], dict[str, Any]]) -> None:
    """Take the frozen weights out of a checkpoint, and put them into the folder unless they are there.

    known: what earlier calls of this process found, by the frozen names; they are hashed once.
    Raises OSError with one line where the file cannot be written.
    """
    names = tuple(checkpoint.pop("frozen", {}).get("names", ()))
    if not names:
        return
    states = [checkpoint[key] for key in STATES if key in checkpoint]
    exact = states[-1]  # averaging a number with itself rounds it
    if names not in known:
        own, aliases = distinct({name: exact[name] for name in names})
        known[names] = {"sha256": fingerprint(own), "aliases": aliases}
    entry = known[names]
    file = frozen_file(folder, entry["sha256"])
    if not file.exists():
        from safetensors.torch import save_file

        own = {name: exact[name].detach().cpu().contiguous() for name in names if name not in entry["aliases"]}
        with whole_file(file) as part:
            save_file(own, part)
    for state in states:
        for name in names:
            del state[name]
    checkpoint["frozen"] = entry


def join_frozen(checkpoint: dict[str, Any], path: Path) -> None:
    """Put the frozen weights back into a checkpoint that was read from `path`.

    Raises FileNotFoundError and ValueError with one line where they are missing, damaged or others.
    """
    entry = checkpoint.get("frozen")
    if entry is None or "sha256" not in entry:  # written by a trainer of its own, all in one
        return
    file = frozen_file(path.parent, entry["sha256"])
    if not file.is_file():
        raise FileNotFoundError(f"{file}: missing; it holds the frozen weights of {path.name} and belongs beside it")
    tensors = read_safetensors(file)
    if fingerprint(tensors) != entry["sha256"]:
        raise ValueError(f"{file}: not the frozen weights of {path.name}, or damaged")
    tensors |= {name: tensors[first] for name, first in entry["aliases"].items()}
    for key in STATES:
        if key in checkpoint:
            checkpoint[key] |= tensors
    checkpoint["frozen"] = entry | {"names": list(tensors)}


def frozen_file(folder: Path, sha256: str) -> Path:
    return folder / f"frozen-{sha256[:16]}.safetensors"


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256, in hexadecimal, of tensors with their names, types and shapes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def distinct(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Each tensor under the first of its names, and the first name for each of the others."""
    first: dict[tuple[int, tuple[int, ...]], str] = {}
    own, aliases = {}, {}
    for name, value in tensors.items():
        kept = first.setdefault((value.data_ptr(), tuple(value.shape)), name) if value.numel() else name
        if kept == name:
            own[name] = value
        else:
            aliases[name] = kept
    return own, aliases
