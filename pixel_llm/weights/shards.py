"""A checkpoint that every process wrote its share of: a folder with `rank_00000.pt`, `rank_00001.pt` and so on.

A file holds plain tensors and values only: the local pieces of what is shared out along the first axis, wrapped as
{"piece": tensor}, whole tensors as they are, and in the first one all that belongs to no process alone. Any number of
processes can read it, since the pieces in the order of the ranks are the whole.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from pixel_llm.whole_files import whole_file


def write_share(folder: Path, content: Any, rank: int, world: int) -> None:
    """Write what this process has of a checkpoint; OSError with one line where that fails."""
    with whole_file(folder / f"rank_{rank:05}.pt") as part:
        torch.save({"world": world, "content": _pieces(content)}, part)


def read_shares(folder: Path) -> dict[str, Any]:
    """The whole checkpoint, read without executing anything; ValueError with one line where a share is missing."""
    world = _read(folder / "rank_00000.pt")["world"]
    return _join([read_share(folder, rank) for rank in range(world)])


def read_share(folder: Path, rank: int) -> dict[str, Any]:
    """What one process wrote, its tensors mapped from the file; errors as of `read_shares`."""
    return _read(folder / f"rank_{rank:05}.pt")["content"]


def _read(file: Path) -> dict[str, Any]:
    try:
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError:
        raise ValueError(f"{file}: missing; the folder is no whole checkpoint") from None
    except Exception:  # many kinds, all of them meaning this
        raise ValueError(f"{file}: not a share of a checkpoint, or a damaged one") from None
    if not isinstance(content, dict) or set(content) != {"world", "content"}:
        raise ValueError(f"{file}: not a share of a checkpoint")
    return content


def _pieces(value: Any) -> Any:
    if isinstance(value, DTensor):
        return {"piece": value.to_local().detach().cpu().clone()}
    if isinstance(value, dict):
        return {key: _pieces(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_pieces(part) for part in value]
    return value


def _join(shares: list[Any]) -> Any:
    """What the first share holds, with its pieces completed by those of the others."""
    first = shares[0]
    if isinstance(first, dict):
        if set(first) == {"piece"} and isinstance(first["piece"], Tensor):
            return torch.cat([share["piece"] for share in shares])
        return {key: _join([share[key] for share in shares if key in share]) for key in first}
    if isinstance(first, list):
        return [_join([share[i] for share in shares if i < len(share)]) for i in range(len(first))]
    return first
