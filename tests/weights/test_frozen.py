"""Frozen weights are written once, come back with every checkpoint, and are told from others."""

from pathlib import Path
from typing import Any

import pytest
import torch

from pixel_llm.checkpoint_io import CheckpointFiles
from pixel_llm.weights.checkpoint import read_checkpoint
from pixel_llm.weights.frozen import fingerprint
from pixel_llm.weights.tensors import read_tensors


def checkpoint() -> dict[str, Any]:
    shared = torch.arange(3.0)
    state = {"a": torch.full((2, 2), 1.5, dtype=torch.bfloat16), "b": shared, "c": shared, "d": torch.tensor([1, 2])}
    frozen = {"names": list(state)}
    return {"config": "x: 1", "state_dict": state | {"free": torch.zeros(2)}, "frozen": frozen}


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    files, file = CheckpointFiles(), tmp_path / "last.ckpt"
    for step in range(3):
        content = checkpoint()
        content["state_dict"]["free"] += step
        files.save_checkpoint(content, file)
    for read in (read_checkpoint(file)["state_dict"], read_tensors(file), files.load_checkpoint(file)["state_dict"]):
        wanted = checkpoint()["state_dict"] | {"free": torch.full((2,), 2.0)}
        assert read.keys() == wanted.keys()
        assert all(torch.equal(read[name], value) and read[name].dtype == value.dtype for name, value in wanted.items())
    assert torch.load(file, weights_only=True)["state_dict"].keys() == {"free"}
    assert len(list(tmp_path.glob("frozen-*"))) == 1


def test_averaged_weights_get_their_frozen_ones_too(tmp_path: Path) -> None:
    content = checkpoint()
    content["current_model_state"] = dict(content["state_dict"])
    content["state_dict"] = {n: v + 1 if n == "free" else v * 1.0001 for n, v in content["state_dict"].items()}
    CheckpointFiles().save_checkpoint(content, tmp_path / "last.ckpt")
    read = read_checkpoint(tmp_path / "last.ckpt")
    for key, free in (("current_model_state", 0.0), ("state_dict", 1.0)):
        wanted = checkpoint()["state_dict"] | {"free": torch.full((2,), free)}
        assert read[key].keys() == wanted.keys()
        assert all(torch.equal(read[key][name], value) for name, value in wanted.items())


def test_missing_or_other_frozen_weights_are_named(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    CheckpointFiles().save_checkpoint(checkpoint(), tmp_path / "last.ckpt")
    (frozen,) = tmp_path.glob("frozen-*")
    save_file({"a": torch.ones(2, 2), "b": torch.arange(3.0), "d": torch.tensor([1, 2])}, frozen)
    with pytest.raises(ValueError, match=rf"{frozen.name}: not the frozen weights of last\.ckpt"):
        read_checkpoint(tmp_path / "last.ckpt")
    frozen.write_bytes(b"torn")
    with pytest.raises(ValueError, match=rf"{frozen.name}: not a safetensors file"):
        read_checkpoint(tmp_path / "last.ckpt")
    frozen.unlink()
    with pytest.raises(FileNotFoundError, match=rf"{frozen.name}: missing; it holds the frozen weights of last\.ckpt"):
        read_checkpoint(tmp_path / "last.ckpt")


def test_the_fingerprint_sees_every_change() -> None:
    one = {"a": torch.zeros(2, 3), "b": torch.ones(1)}
    for other in (
        {"a": torch.zeros(3, 2), "b": torch.ones(1)},
        {"a": torch.zeros(2, 3), "c": torch.ones(1)},
        {"a": torch.zeros(2, 3), "b": torch.ones(1, dtype=torch.float64)},
        {"a": torch.zeros(2, 3), "b": torch.ones(1).nextafter(torch.tensor(2.0))},
    ):
        assert fingerprint(other) != fingerprint(one)
    assert fingerprint({"b": torch.ones(1), "a": torch.zeros(3, 2).T}) == fingerprint(one)
