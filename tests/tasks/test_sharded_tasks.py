"""Every task on two processes that share its weights out: losses and gradients are those of one with both batches."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, distributed
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor

from datamodules.base import ShardDataModule
from datamodules.dialogues_referring import ReferringDialoguesDataModule
from pixel_llm.sharding import shard
from pixel_llm.tasks.base import Task
from pixel_llm.tasks.pixel_sail import Dialogues
from pixel_llm.tasks.referring_localization import ReferringLocalization
from tests.runs import tiny_optimizer
from tests.tasks.test_dialogues import distilled, settings
from tests.tasks.test_learning import TASKS
from tests.tiny import tiny_core, toy_referring

IMAGES = 4
Step = tuple[Tensor, dict[str, Tensor]]


def segmentation(mask_adapter: str) -> ReferringLocalization:
    core = tiny_core(mask_adapter=mask_adapter)
    return ReferringLocalization(core, tiny_optimizer(), segment=True, frozen=["mask_head.decoder"])


def cases(toy: Path) -> dict[str, tuple[Callable[[], Task], Callable[[], ShardDataModule]]]:
    """Tasks, the same whenever they are made, and their data."""
    learning = {name: (task, partial(data, toy)) for name, (task, data, _) in TASKS.items()}
    masks = {
        f"referring segmentation, {adapter}": (partial(segmentation, adapter), partial(toy_referring, toy, masks=True))
        for adapter in ("embedding", "gated")
    }
    asked = partial(ReferringDialoguesDataModule, **settings(toy) | {"expressions_per_image": 2})
    return {**learning, **masks, "dialogues with a teacher": (partial(distilled, toy), asked)}


@contextmanager
def rows_alike(seed: int) -> Iterator[None]:
    """What is drawn at random for images, objects or masks is the same for each, wherever it is in a batch."""

    def drawn(draw: Callable[..., Tensor], size: Any) -> Tensor:
        return draw(*size[1:], generator=torch.Generator().manual_seed(seed)).expand(*size)

    uniform, normal = torch.rand, torch.randn
    with (
        patch.object(torch, "rand", lambda *size, device: drawn(uniform, size)),
        patch.object(torch, "randn_like", lambda value: drawn(normal, value.shape)),
    ):
        yield


def steps(toy: Path, mesh: DeviceMesh | None = None, rank: int = 0, world: int = 1) -> dict[str, list[Step]]:
    """Of each case losses and gradients of two steps of this process, one batch after the other."""
    found: dict[str, list[Step]] = {}
    for name, (make_task, make_data) in cases(toy).items():
        torch.manual_seed(0)
        task, data = make_task(), make_data()
        data.batch_size = IMAGES // world
        data.trainer = type("Trainer", (), {"global_rank": rank, "world_size": world})
        task.log = lambda *_, **__: None  # type: ignore[method-assign]
        if isinstance(task, Dialogues):
            task.make_training_parts()
        if mesh is not None:
            shard(task, task.core, mesh)
        found[name] = [step(task, batch, seed) for seed, batch in zip((0, 1), data.train_dataloader(), strict=False)]
    return found


def step(task: Task, batch: Any, seed: int) -> Step:
    task.zero_grad()
    with rows_alike(seed):
        loss = task.training_step(batch, 0)
    loss.backward()
    gradients = {name: value.grad for name, value in task.named_parameters() if value.grad is not None}
    whole = {name: g.full_tensor() if isinstance(g, DTensor) else g.clone() for name, g in gradients.items()}
    return loss.detach(), whole


def _one_of_two(rank: int, toy: Path, out: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{out}/meeting", rank=rank, world_size=2)
    torch.save(steps(toy, init_device_mesh("cpu", (2,)), rank, 2), out / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_with_shared_out_weights_train_as_one(toy: Path, tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_one_of_two, (toy, tmp_path), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    for name, wanted in steps(toy).items():
        for number, (loss, gradients) in enumerate(wanted):
            (one, shared), (other, _) = first[name][number], second[name][number]
            assert not torch.equal(one, other), name  # they had batches of their own
            assert torch.allclose((one + other) / 2, loss, atol=1e-5, rtol=1e-5), name
            assert shared.keys() == gradients.keys(), name
            torch.testing.assert_close(shared, gradients, atol=1e-5, rtol=1e-4, msg=partial("{}: {}".format, name))
