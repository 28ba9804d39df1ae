"""What a training step costs, found without taking it: its floating point operations and what it keeps for backward.

The forward pass runs on tensors that have shapes and no content, of a GPU that need not be there. Numbers of a batch
that decide about shapes (which boxes are equal, where a caption ends) are few and stay real.
"""

import copy
import math
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.random import fork_rng
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import flop_registry

from pixel_llm.core.proposal_head import ProposalHead
from pixel_llm.losses import in_this_process_alone
from pixel_llm.sharding import trained_blocks
from pixel_llm.structures import Batch, DetectorOutputs, Regions, RoISamples
from pixel_llm.tasks.base import Task

aten = torch.ops.aten
# the factors of each kind of product, by their places among the arguments: each that learns is one more product
_FACTORS = {aten.mm: (0, 1), aten.addmm: (1, 2), aten.bmm: (0, 1), aten.baddbmm: (1, 2), aten.convolution: (0, 1)}
_ATTENTION_BACKWARD = 2.5  # of its forward pass: five products for two, one of them made again


@dataclass
class StepCost:
    """Of one batch in one process.

    forward, backward: floating point operations of products, convolutions and attention.
    activations: bytes that the forward pass leaves for the backward pass, weights and what follows not counted.
    weight_copies: bytes of weights in the precision of the arithmetic that the backward pass needs: autocast makes
        them wherever a gradient passes through a weight, trained or frozen.
    """

    forward: int
    backward: int
    activations: int
    weight_copies: int


def step_cost(task: Task, batch: Batch, autocast: torch.dtype | None = None, recompute: bool = False) -> StepCost:
    """The cost of a training step on a GPU with fused attention; neither `task` nor any random state is touched.

    task: on any device, also "meta".  batch: on the CPU.  autocast: the dtype of the arithmetic, None for the weights'.
    recompute: with activation checkpointing (`callbacks.activation_checkpointing`).
    Of a detector, as many samples as can be are taken to be of a true box.
    """
    empty = Empty()
    hollow = _hollow(task, empty.of)
    weights = {p.untyped_storage()._cdata for p in [*hollow.parameters(), *hollow.buffers()]}
    kept = Kept(weights)
    blocks = [Recomputed(block, empty, kept) for block in (trained_blocks(hollow.core) if recompute else [])]
    hooks = saved_tensors_hooks(kept.add, lambda tensor: tensor)
    with in_this_process_alone(), fork_rng(devices=[]), _autocast(autocast), hooks, empty, FusedAttention():
        loss = hollow.training_step(replace(batch, images=empty.of(batch.images)), 0)
    copies = kept.bytes(among=empty.weight_copies)
    activations = kept.bytes() - copies + max((block.inside for block in blocks), default=0)
    del loss  # until here it held the storages
    return StepCost(empty.forward, empty.backward, activations, copies)


class Kept:
    """The storages that tensors without content keep for the backward pass, beside those of `weights`."""

    def __init__(self, weights: Collection[int]) -> None:
        self.weights = weights
        self.storages: dict[int, torch.UntypedStorage] = {}  # held, so that no other gets the same address

    def add(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if isinstance(tensor, FakeTensor) and storage._cdata not in self.weights:
            self.storages[storage._cdata] = storage
        return tensor

    def bytes(self, among: Collection[int] | None = None) -> int:
        return sum(s.nbytes() for key, s in self.storages.items() if among is None or key in among)


class Recomputed:
    """Lets a block keep its inputs alone: what is inside is made again when the backward pass comes to it.

    inside: bytes that it then takes; one block at a time has them.
    """

    def __init__(self, block: nn.Module, empty: "Empty", kept: Kept) -> None:
        self.forward, self.empty, self.kept, self.inside = block.forward, empty, kept, 0
        block.forward = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, Tensor):
                self.kept.add(tensor)
        before, inside = self.empty.forward, Kept(self.kept.weights)
        with saved_tensors_hooks(inside.add, lambda tensor: tensor):
            out = self.forward(*args, **kwargs)
        self.inside = inside.bytes()
        self.empty.backward += self.empty.forward - before
        return out


class Empty(TorchDispatchMode):
    """Within it, tensors of a GPU have no content, nor has what is made of them; counts what would be computed."""

    def __init__(self) -> None:
        super().__init__()
        self._fake = FakeTensorMode()
        self.forward = self.backward = 0
        self.weight_copies: dict[int, torch.UntypedStorage] = {}  # held, so that no other gets the same address

    def of(self, tensor: Tensor) -> Tensor:
        """A tensor of the same shape and strides without content, on a GPU."""
        if isinstance(tensor, FakeTensor):
            return tensor
        with self._fake:
            return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cuda")

    def __enter__(self) -> Self:
        self._fake.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._fake.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        device = kwargs.get("device")
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        empty = sum(isinstance(tensor, FakeTensor) for tensor in tensors)
        if not empty and not (isinstance(device, torch.device) and device.type == "cuda"):
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        if empty < len(tensors):
            args, kwargs = tree_map_only(Tensor, self.of, (args, kwargs))
        if func is aten.index.Tensor:
            args = (args[0], _all_places(args[1]))
        out = func(*args, **kwargs)
        if func is aten._to_copy.default and isinstance(args[0], nn.Parameter):
            storage = out.untyped_storage()
            self.weight_copies[storage._cdata] = storage
        self._count(func.overloadpacket, args, kwargs, out)
        return out

    def _count(self, operation: Any, args: Any, kwargs: Any, out: Any) -> None:
        if operation not in flop_registry:
            return
        operations = flop_registry[operation](*args, **kwargs, out_val=out)
        self.forward += operations
        if operation in _FACTORS:
            self.backward += operations * sum(args[place].requires_grad for place in _FACTORS[operation])
        elif any(argument.requires_grad for argument in args[:3]):
            self.backward += math.ceil(operations * _ATTENTION_BACKWARD)


def _all_places(indices: list[Tensor | None]) -> list[Tensor | None]:
    """A mask without content selects everything, which is more than it would."""
    places: list[Tensor | None] = []
    for index in indices:
        if index is not None and index.dtype == torch.bool:
            places += [index.new_empty(index.numel(), dtype=torch.long)] * index.dim()
        else:
            places.append(index)
    return places


class FusedAttention(TorchFunctionMode):
    """Attention by the kernel that a GPU would run, which never holds the weights of the attention."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            return _fused_attention(*args, **kwargs or {})
        return func(*args, **kwargs or {})


def _fused_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **_: Any,
) -> Tensor:
    if torch.is_autocast_enabled("cuda"):
        dtype = torch.get_autocast_dtype("cuda")
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    if attn_mask is not None:
        attn_mask = attn_mask.to(query.dtype).expand(*query.shape[:-1], key.shape[-2])
    learns = torch.is_grad_enabled() and any(t.requires_grad for t in (query, key, value))
    attend = aten._scaled_dot_product_efficient_attention
    return attend(query, key, value, attn_mask, learns, dropout_p, is_causal, scale=scale)[0]


def _hollow(task: Task, emptied: Callable[[Tensor], Tensor]) -> Task:
    """A copy of a task whose weights have no content; it logs nothing and takes no memory."""
    memo: dict[int, Any] = {id(p): nn.Parameter(emptied(p.detach()), p.requires_grad) for p in task.parameters()}
    memo |= {id(buffer): emptied(buffer) for buffer in task.buffers()}
    hollow = copy.deepcopy(task, memo).train()
    hollow.log = lambda *_, **__: None  # type: ignore[method-assign]
    for module in hollow.modules():
        if isinstance(module, ProposalHead):
            _find_the_truth(module)
    return hollow


def _find_the_truth(head: ProposalHead) -> None:
    """Let a detector propose the true boxes, again and again: which ones it would find depends on what it sees."""
    sample = head.sample

    def sample_truth(outputs: DetectorOutputs, truth: Regions) -> RoISamples:
        times = math.ceil(head.post_nms[0] * len(outputs.sizes) / max(len(truth.boxes), 1))
        boxes, index = truth.boxes.repeat(times, 1), truth.image_index.repeat(times)
        proposals = Regions(index, boxes, torch.ones(len(boxes)))
        head.propose = lambda *_, **__: proposals  # type: ignore[method-assign]
        return sample(outputs, truth)

    head.sample = sample_truth  # type: ignore[method-assign]


@contextmanager
def _autocast(dtype: torch.dtype | None) -> Iterator[None]:
    """`torch.autocast("cuda")`, which switches itself off where there is no GPU."""
    before = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", dtype is not None)
    torch.set_autocast_dtype("cuda", dtype or before[1])
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        if torch.autocast_decrement_nesting() == 0:
            torch.clear_autocast_cache()
        torch.set_autocast_enabled("cuda", before[0])
        torch.set_autocast_dtype("cuda", before[1])
