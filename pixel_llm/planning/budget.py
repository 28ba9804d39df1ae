"""Memory of a GPU, time of a step and cost of a stage, by plain arithmetic from what a step costs and stated rates."""

from dataclasses import dataclass

import torch
from torch import nn

from pixel_llm.sharding import blocks

_ADAM_STATES = 2  # of each trained weight, in its precision


@dataclass(frozen=True)
class GPU:
    """peak, peak_float32: TFLOP/s of dense products in bfloat16 and in float32.  memory: GB.
    within, between: GB/s that each GPU sends within a node, and to other nodes.
    """

    peak: float
    peak_float32: float
    memory: float
    within: float
    between: float


# of the makers' data sheets, without sparsity; between nodes one adapter of 400 (A100: 200) Gb/s for each GPU
GPUS = {
    "a100": GPU(312, 19.5, 80, 300, 25),
    "h100": GPU(989, 67, 80, 450, 50),
    "h200": GPU(989, 67, 141, 450, 50),
}
GPUS_PER_NODE = 8


@dataclass(frozen=True)
class Rates:
    """What a plan assumes beside the GPU.

    utilisation: share of the peak that a step reaches.  dollars: of a GPU's hour.  cores: of the CPU, for each GPU.
    images_per_core: that the loader makes in a core's second (docs/benchmarks.md).  image_kb: of a file.
    node_read: GB/s that a node reads from where the shards are.
    """

    utilisation: float = 0.35
    dollars: float = 2.5
    cores: int = 14
    images_per_core: float = 159.0
    image_kb: float = 166.0
    node_read: float = 1.0


@dataclass(frozen=True)
class Weights:
    """Bytes of a model's weights: all, trained, of the largest block that FSDP gathers, and of what is in no block."""

    all: int
    trained: int
    block: int
    around: int


def weights_of(core: nn.Module, task: nn.Module | None = None) -> Weights:
    """task: what holds the core, and maybe modules beside it, such as teachers."""

    def size(values: set[nn.Parameter]) -> int:
        return sum(v.numel() * v.element_size() for v in values)

    everything = set((task or core).parameters())
    groups = [set(block.parameters()) for block in blocks(core)]
    return Weights(
        all=size(everything),
        trained=size({v for v in everything if v.requires_grad}),
        block=max(map(size, groups), default=0),
        around=size(everything.difference(*groups)),
    )


@dataclass(frozen=True)
class Memory:
    """Bytes of one GPU at the end of the forward pass, when the most is held."""

    weights: float
    gathered: float
    gradients: float
    optimizer: float
    activations: float
    copies: float

    @property
    def total(self) -> float:
        return sum(vars(self).values())


def memory(weights: Weights, activations: int, copies: int, shares: int = 1) -> Memory:
    """shares: how many GPUs share out weights, gradients and optimizer state (FSDP); 1 holds all (DDP).

    A sharded model also gathers what lies around its blocks, and two blocks, of which one is in use.
    """
    gathered = weights.around + 2 * weights.block if shares > 1 else 0
    return Memory(
        weights=weights.all / shares,
        gathered=gathered,
        gradients=weights.trained / shares,
        optimizer=_ADAM_STATES * weights.trained / shares,
        activations=activations,
        copies=copies,
    )


@dataclass(frozen=True)
class StepTime:
    """Seconds of an optimizer step for each thing that can be the slowest, if it were alone."""

    arithmetic: float
    exchange: float
    decoding: float
    reading: float

    @property
    def seconds(self) -> float:
        """They run beside each other: the slowest sets the pace."""
        return max(vars(self).values())

    @property
    def bottleneck(self) -> str:
        return max(vars(self), key=lambda name: vars(self)[name])


def step_time(
    operations: float, images: int, exchanged: float, gpus: int, peak: float, gpu: GPU, rates: Rates
) -> StepTime:
    """operations, images: of one GPU in an optimizer step.  exchanged: bytes that each GPU sends in it.

    peak: TFLOP/s of the precision that is computed in.
    """
    node = min(gpus, GPUS_PER_NODE)
    link = gpu.within if gpus <= GPUS_PER_NODE else gpu.between
    return StepTime(
        arithmetic=operations / (peak * 1e12 * rates.utilisation),
        exchange=exchanged / (link * 1e9),
        decoding=images / (rates.cores * rates.images_per_core),
        reading=images * node * rates.image_kb * 1e3 / (rates.node_read * 1e9),
    )


def exchanged_bytes(weights: Weights, gpus: int, sharded: bool, batches: int) -> float:
    """What a GPU sends in an optimizer step of so many accumulated batches.

    Copies add up gradients, each GPU sending nearly twice their size. Shares gather all weights in the forward and in
    the backward pass of every batch, and add up gradients into shares, nearly once their size.
    """
    part = (gpus - 1) / gpus
    if sharded:
        return part * (2 * weights.all * batches + weights.trained * batches)
    return part * 2 * weights.trained


def arithmetic_of(precision: str) -> tuple[torch.dtype | None, torch.dtype | None]:
    """Of Lightning's precision: the dtype of autocast, and the dtype that the whole model is cast to."""
    name, _, kind = precision.partition("-")
    dtype = {"bf16": torch.bfloat16, "16": torch.float16}.get(name)
    return (dtype, None) if kind == "mixed" else (None, dtype)
