"""`pixel-llm replay`: repeat the training step that a run stopped at, and say where it goes wrong."""

import argparse
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from callbacks.nan_guard import REPLAY
from callbacks.step_seed import seed_step
from pixel_llm.predictor import restored_task, usable_device
from pixel_llm.structures import Batch
from pixel_llm.tasks.base import Task
from pixel_llm.weights.checkpoint import read_checkpoint


def main(arguments: Sequence[str]) -> None:
    """Raises ValueError with one line for a file that holds no step."""
    parser = argparse.ArgumentParser(prog="pixel-llm replay", description=__doc__)
    parser.add_argument("file", type=Path, help="checkpoints/replay_step_NNNNNN.ckpt of a run's folder")
    parser.add_argument("--device", default="cpu", help="cpu or cuda; a GPU repeats what a GPU did")
    options = parser.parse_args(arguments)
    device = usable_device(options.device)
    content = read_checkpoint(options.file)
    if REPLAY not in content:
        raise ValueError(f"{options.file}: a checkpoint, but not of a step that went wrong")
    step, config = content[REPLAY], yaml.safe_load(content["config"])
    task = restored_task(config["model"], content["state_dict"], options.file).train().to(device)
    print(f"step {step['step']}, seed {step['seed']}, precision {step['precision']}, {step['processes']} processes")
    if step["processes"] > 1:
        print("a loss below is divided by what counts in one process's batch, not in those of all")
    if broken := [name for name, p in task.named_parameters() if not p.isfinite().all()]:
        print(f"weights that are not finite before the step: {len(broken)}, the first is {broken[0]}")
    for found in step["found"]:
        for number, batch in found["batches"]:
            seed_step(step["seed"], number, found["rank"])
            print(f"process {found['rank']}, batch {number}, where {found['complaint']}")
            for line in repeat(task, Batch.from_plain(batch).to(device), step["precision"]):
                print(f"  {line}")


def repeat(task: Task, batch: Batch, precision: str = "32") -> Iterator[str]:
    """One forward and backward pass in training mode; yields what is to be said about it, line by line."""
    yield f"samples: {', '.join(batch.keys)}"
    odd = [name for name, value in _tensors(batch) if not value.isfinite().all()]
    if odd:
        yield f"of the batch are not finite: {', '.join(odd)}"
    terms: dict[str, Tensor] = {}
    task.log = lambda name, value, *_, **__: terms.update({name: torch.as_tensor(value)})  # type: ignore[method-assign]
    task.zero_grad()
    with _first_not_finite(task) as modules, _autocast(batch.images.device, precision):
        loss = task.training_step(batch, 0)
    yield f"loss: {loss.item():.6g} ({', '.join(f'{name} {value.item():.6g}' for name, value in terms.items())})"
    yield f"first module with an output that is not finite: {modules[0] if modules else 'none'}"
    unusual = _backward(loss)
    if unusual:
        yield f"backward: {unusual}"
        return
    gradients = [(name, p.grad) for name, p in task.named_parameters() if p.grad is not None]
    bad = [name for name, gradient in gradients if not gradient.isfinite().all()]
    yield f"gradients that are not finite: {len(bad)} of {len(gradients)}{f', such as {bad[0]}' if bad else ''}"


def _tensors(batch: Batch) -> list[tuple[str, Tensor]]:
    """The floating point tensors of a batch by name."""
    content = {**vars(batch), **vars(batch.prompts), **(vars(batch.targets) if batch.targets else {})}
    return [(n, v) for n, v in content.items() if isinstance(v, Tensor) and v.is_floating_point()]


@contextmanager
def _first_not_finite(task: Task) -> Iterator[list[str]]:
    """Fills a list with the modules whose output is not finite, in the order in which they finish."""
    found: list[str] = []
    names = {module: name for name, module in task.named_modules()}

    def look(module: nn.Module, inputs: Any, output: Any) -> None:
        if module in names and not _finite(output):
            healthy = "finite" if _finite(inputs) else "not finite"
            found.append(f"{names[module]} ({type(module).__name__}), its inputs are {healthy}")

    handle = nn.modules.module.register_module_forward_hook(look)
    try:
        yield found
    finally:
        handle.remove()


def _finite(values: Any) -> bool:
    leaves = [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    return all(bool(leaf.isfinite().all()) for leaf in leaves)


def _backward(loss: Tensor) -> str | None:
    """What anomaly detection has to say against the backward pass."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is slow, and meant to be
            with torch.autograd.detect_anomaly():
                loss.backward()
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return None


def _autocast(device: torch.device, precision: str) -> torch.autocast:
    dtype = torch.float16 if precision == "16-mixed" else torch.bfloat16
    return torch.autocast(device.type, dtype, enabled=precision in ("16-mixed", "bf16-mixed"))
