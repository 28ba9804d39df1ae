"""Reading the golden files: arrays of one component, its configuration, its cases."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor


@dataclass
class Golden:
    """One file of a golden directory.

    config: the sizes that the published module was built with.
    calls: case -> how the published module was called, in words.
    outputs: case -> names of its outputs, in the order of the file.
    """

    name: str
    config: dict[str, Any]
    calls: dict[str, str]
    parameters: dict[str, np.ndarray]
    arrays: dict[str, np.ndarray]
    outputs: dict[str, list[str]] = field(default_factory=dict)

    def inputs(self, case: str, name: str) -> Tensor:
        """An input of a case; one that a case does not list is that of an earlier case of the file."""
        for key in (f"{case}/in/{name}", *(k for k in self.arrays if k.endswith(f"/in/{name}"))):
            if key in self.arrays:
                return torch.from_numpy(self.arrays[key])
        raise KeyError(f"{self.name}: no input {name}")

    def output(self, case: str, name: str) -> np.ndarray:
        return self.arrays[f"{case}/out/{name}"]


def read_golden(path: Path) -> Golden:
    """Read one .npz file; nothing in it is unpickled."""
    with np.load(path, allow_pickle=False) as content:
        arrays = {key: content[key] for key in content.files}
    described = json.loads(str(arrays.pop("config_json")))
    calls = {case["case"]: case.get("call", "") for case in described.get("cases", [])}
    parameters = {key.removeprefix("params/"): arrays.pop(key) for key in list(arrays) if key.startswith("params/")}
    golden = Golden(path.stem, described["config"], calls, parameters, arrays)
    for key in arrays:
        case, found, name = key.partition("/out/")
        if found and "/grad/" not in case:  # a parameter may be called out
            golden.outputs.setdefault(case, []).append(name)
    return golden


def regenerate_parameters(golden: Golden, scope: str) -> dict[str, np.ndarray]:
    """Parameters of a file that stores only their shapes and four check numbers each.

    Every array is drawn from numpy's RandomState seeded with the checksum of its scope and path. Raises
    ValueError where the check numbers do not come out.
    """
    parameters = {}
    for key, shape in golden.arrays.items():
        if not key.startswith("params_shape/"):
            continue
        path = key.removeprefix("params_shape/")
        drawn = _draw(scope, path, tuple(int(side) for side in shape))
        flat = drawn.astype(np.float64).ravel()
        check = np.array([flat.sum(), np.square(flat).sum(), flat[0], flat[-1]])
        if not np.allclose(check, golden.arrays[f"params_check/{path}"], rtol=1e-5, atol=1e-4):
            raise ValueError(f"{golden.name}: {path} does not follow the recipe")
        parameters[path] = drawn
    return parameters


def _draw(scope: str, path: str, shape: tuple[int, ...]) -> np.ndarray:
    seed = crc32(f"pixelllm-golden-v1|{scope}|{path}".encode())
    values = np.random.RandomState(seed).standard_normal(shape)
    leaf = path.rsplit("/", 1)[-1]
    if leaf == "kernel":
        values = values / np.sqrt(np.prod(shape[:-1]))
    elif leaf == "scale":
        values = 1 + 0.2 * values
    elif leaf == "bias":
        values = 0.1 * values
    return torch.from_numpy(values.astype(np.float32)).bfloat16().float().numpy()
