"""Fewer and larger operations: torch.compile for the blocks of the encoders and the language model."""

from functools import partial
from typing import Any

import lightning as L
import torch
from torch import nn

from pixel_llm.messages import one_line
from pixel_llm.sharding import blocks
from pixel_llm.tasks.base import Task

# Blocks of one class share their code, and with it what is compiled: for training and evaluation, with and without
# gradients, for windows and whole grids, for fixed sizes and then for any; in transformers' decoders for each layer,
# which knows its number. Torch gives up after 8 of them, and whatever it is told after 256.
_FORMS = 256


class Compilation(L.Callback):
    """Compiles the blocks, each in its place; names of weights, checkpoints and losses stay as they are.

    The first steps take long: every kind of block is compiled when it is first used, and anew, once and for all sizes,
    when the number of prompts or of tokens is another one. A data module's `length_multiple` makes the numbers of
    tokens few. Dropout is drawn in another order than without compilation.

    backend: of torch.compile; one that does not work here raises ValueError with one line, before anything is trained.
    """

    def __init__(self, backend: str = "inductor") -> None:
        self.backend = backend

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        assert isinstance(pl_module, Task)
        check_backend(self.backend, trainer.strategy.root_device)
        # it would cut the blocks where DDP's buckets end; gradients are sent while other blocks compute as it is
        torch._dynamo.config.optimize_ddp = False
        compile_blocks(pl_module.core, self.backend)


def check_backend(backend: str, device: torch.device) -> None:
    """ValueError with one line where it cannot compile a small function, as without a C compiler.

    The first step would else find that out, in many lines.
    """
    try:
        torch.compile(lambda x: x.sin() + x, backend=backend)(torch.ones(8, device=device))
    except Exception as error:  # every backend has errors of its own
        reason = one_line(str(error).partition("\nSet TORCH")[0])  # behind it, advice for those who develop torch
        raise ValueError(f"torch.compile does not work here: {reason}; train without Compilation") from None


def compile_blocks(core: nn.Module, backend: str = "inductor") -> None:
    """A block that is compiled already stays as it is."""
    for block in blocks(core):
        if not _compiled(block):
            block.forward = _compile(block.forward, backend)


def is_compiled(module: nn.Module) -> bool:
    """Whether it, or any part of it, is compiled."""
    return getattr(module, "_compiler_ctx", None) is not None or any(map(_compiled, module.modules()))


def _compile(forward: Any, backend: str) -> Any:
    # Not `Module.compile`: around activation checkpointing it would compile nothing, and with FSDP2 the gathering too.
    if isinstance(forward, partial):  # of activation checkpointing, which stays around it
        return partial(forward.func, _compile(forward.args[0], backend), **forward.keywords)
    return torch.compile(forward, backend=backend, recompile_limit=_FORMS)  # type: ignore[call-overload]


def _compiled(module: nn.Module) -> bool:
    forward = module.forward
    while isinstance(forward, partial):
        forward = forward.args[0]
    return module._compiled_call_impl is not None or hasattr(forward, "_torchdynamo_orig_callable")
