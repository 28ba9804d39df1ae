"""FSDP2: a process keeps a share of each weight, its gradient and its optimiser state, and gathers a block to use it.

The blocks of the image encoders and of the language model are gathered one after the other; what lies around them is
one group, gathered as long as a step lasts. Whatever would train without being shared out would silently become
different in every process; `check_sharded` refuses that.
"""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from pixel_llm.weights.shards import write_share
from pixel_llm.weights.tensors import check_fit

# What is called of a PixelLLM, a PixelSail or a Sam besides forward, and of a language model that is trained alone.
# They must not call each other: the end of an inner one would share the weights out under the outer one.
_ENTRIES = (
    "encode_images", "extract", "locate", "segment", "generate", "encode_prefix", "hidden_states", "logits",
    "mask_features", "masks", "box_tokens", "point_tokens",
)  # fmt: skip

# What is called of a proposal head besides forward; a task does so itself. The head is a group of its own: the core's
# weights are let go once the gradients of what its last entry was given are there, and the head's come after those.
_HEAD_ENTRIES = ("sample", "detect")

_STACKS = ("sam_encoder", "tuned_encoder", "language_model", "backbone", "image_encoder")


def blocks(core: nn.Module) -> Iterator[nn.Module]:
    """The repeated blocks of the image encoders and the language model, where nearly all weights are."""
    for part in [getattr(core, name) for name in _STACKS if hasattr(core, name)] or [core]:
        yield from _listed(part)


def trained_blocks(core: nn.Module) -> list[nn.Module]:
    """Those of them that gradients pass through: not the blocks of frozen image encoders."""
    frozen = {id(m) for m in core.modules() if getattr(m, "frozen", False) for m in m.modules()}
    return [block for block in blocks(core) if id(block) not in frozen]


def _listed(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        yield from child if isinstance(child, nn.ModuleList) else _listed(child)


def shard(task: nn.Module, core: nn.Module, mesh: DeviceMesh) -> None:
    """Share out a task's weights over the processes of a one-dimensional mesh. A second call changes nothing."""
    if isinstance(core, FSDPModule):
        return
    for block in blocks(core):
        if any(True for _ in block.parameters()):
            fully_shard(block, mesh=mesh)
    head = getattr(core, "proposal_head", None)
    if head is not None:
        fully_shard(head, mesh=mesh)
        _register(head, _HEAD_ENTRIES)
    fully_shard(core, mesh=mesh, reshard_after_forward=False)
    _register(core, _ENTRIES)
    shared = set(core.parameters())
    for child in task.children():
        if child is not core and any(value not in shared for value in child.parameters()):
            fully_shard(child, mesh=mesh)
    check_sharded(task)


def _register(module: nn.Module, entries: Sequence[str]) -> None:
    for name in entries:
        if hasattr(module, name):
            register_fsdp_forward_method(module, name)


def own_share(value: Tensor) -> Tensor:
    """What this process holds of a parameter: its share of one that is shared out, else all of it; differentiable."""
    return value.to_local() if isinstance(value, DTensor) else value


def check_sharded(module: nn.Module) -> None:
    """RuntimeError naming trainable parameters that are not shared out: processes would train them apart."""
    left = [n for n, p in module.named_parameters() if p.requires_grad and not isinstance(p, DTensor)]
    if left:
        raise RuntimeError(f"trainable but not sharded, so every process would train its own: {', '.join(left[:5])}")


def gather(core: nn.Module, whole: bool) -> None:
    """Hold all weights in every process, to decode with, or share them out again."""
    if not isinstance(core, FSDPModule):
        return
    for module in core.modules():
        if isinstance(module, FSDPModule):
            if module is not core:
                module.set_reshard_after_forward(not whole, recurse=False)
            module.unshard() if whole else module.reshard()


class ShardedStrategy(ModelParallelStrategy):
    """FSDP2 over all processes of a run.

    sharded_checkpoints: each process writes its share, of frozen weights too, into a folder (`weights/shards.py`); by
        default the first one writes the same file as without sharding. Any strategy and any number of processes can go
        on from either.
    """

    def __init__(self, sharded_checkpoints: bool = False) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=sharded_checkpoints)

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        assert self.model is not None
        return get_model_state_dict(self.model, options=self._options())

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """As torch numbers parameters, by their order in the optimiser, whatever the strategy."""
        assert self.model is not None
        optimizer = getattr(optimizer, "_optimizer", optimizer)
        state = get_optimizer_state_dict(self.model, optimizer, options=self._options())
        return _by_number(state)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        path = Path(self.broadcast(filepath))
        if self._save_distributed_checkpoint:
            self._save_shares(checkpoint, path)
        elif self.is_global_zero:
            self.checkpoint_io.save_checkpoint(checkpoint, path)

    def _save_shares(self, checkpoint: dict[str, Any], path: Path) -> None:
        """Into a folder of its own, which `path` becomes another name of once all of it is there."""
        checkpoint.pop("frozen", None)
        folder = path.with_name(f"{path.stem}_{checkpoint['global_step']:09}.shares")
        write_share(folder, checkpoint, self.global_rank, self.world_size)
        self.barrier()
        if self.is_global_zero:
            _point_to(path, folder)
        self.barrier()

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = True) -> dict[str, Any]:
        path = Path(self.broadcast(checkpoint_path))
        checkpoint = self.checkpoint_io.load_checkpoint(path)
        assert self.model is not None
        state = checkpoint.pop("state_dict")
        check_fit(self.model, state, str(path))
        options = StateDictOptions(full_state_dict=True)
        set_model_state_dict(self.model, state, options=options)
        for optimizer, values in zip(self.optimizers, checkpoint.get("optimizer_states", ()), strict=False):
            names = {id(value): name for name, value in self.model.named_parameters()}
            order = [names[id(value)] for group in optimizer.param_groups for value in group["params"]]
            set_optimizer_state_dict(self.model, optimizer, _by_name(values, order), options=options)
        return checkpoint

    def _options(self) -> StateDictOptions:
        return StateDictOptions(full_state_dict=not self._save_distributed_checkpoint, cpu_offload=True)


def _by_number(state: Mapping[str, Any]) -> dict[str, Any]:
    """An optimiser's state by parameter names -> by their numbers, as `Optimizer.state_dict` has it."""
    if not state:  # only the first process has it
        return {}
    names = [name for group in state["param_groups"] for name in group["params"]]
    numbers = {name: number for number, name in enumerate(names)}
    groups = [{**group, "params": [numbers[name] for name in group["params"]]} for group in state["param_groups"]]
    return {"state": {numbers[name]: value for name, value in state["state"].items()}, "param_groups": groups}


def _by_name(state: Mapping[str, Any], order: list[str]) -> dict[str, Any]:
    groups = [{**group, "params": [order[number] for number in group["params"]]} for group in state["param_groups"]]
    return {"state": {order[number]: value for number, value in state["state"].items()}, "param_groups": groups}


def _point_to(link: Path, folder: Path) -> None:
    """Make `link` a name of `folder` at once, and delete the folder that it named before."""
    before = link.resolve() if link.is_symlink() else None
    if before is None and link.is_dir():
        shutil.rmtree(link)
    new = link.with_name(f"{link.name}.{os.getpid()}.part")
    new.symlink_to(folder.name)
    new.replace(link)
    if before is not None and before != folder.resolve():
        shutil.rmtree(before, ignore_errors=True)
