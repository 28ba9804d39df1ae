"""Files of named tensors, read without executing anything."""

import pickle
from pathlib import Path

import torch
from torch import Tensor


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file; ValueError with one line where it is none."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: not a safetensors file ({_first_line(error)})") from None


def read_pytorch(path: Path) -> object:
    """What a PyTorch file of tensors and plain values holds; ValueError with one line where it is none."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise ValueError(f"{path}: not a PyTorch file of tensors ({_first_line(error)})") from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
