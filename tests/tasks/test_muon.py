"""Muon's steps against torch's own, AdamW's beside them, and what a training keeps of them."""

from functools import partial
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from pixel_llm.tasks.muon import MuonSchedule, orthogonal
from pixel_llm.tasks.optimizer import AdamWSchedule, schedule

SETTINGS = {"learning_rate": 0.01, "weight_decay": 0.1, "warmup_steps": 0}


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([nn.Linear(8, 24), nn.Linear(24, 8)])
        self.words = nn.Embedding(64, 8)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = self.words(tokens)
        for layer in self.layers:
            hidden = layer(hidden).tanh()
        return hidden.square().sum()


def tokens(step: int) -> torch.Tensor:
    """So many that gradients have all directions: what is rounded in the others would be made as large."""
    return torch.arange(32) + 8 * step


def trained(optimised: AdamWSchedule, steps: int, model: nn.Module | None = None) -> dict[str, torch.Tensor]:
    model = model or Model()
    optimizer, rate = optimised.build(model, 10)
    for step in range(steps):
        optimizer.zero_grad()
        optimizer.step(lambda step=step: model(tokens(step)).backward())
        rate.step()
    return {name: value.detach() for name, value in model.named_parameters()}


def muon() -> MuonSchedule:
    return MuonSchedule(matrices=["layers."], **SETTINGS)


@pytest.mark.parametrize("shape", [(16, 16), (8, 24), (24, 8)])
def test_a_matrix_is_made_about_orthogonal(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    made = orthogonal(matrix)
    singular = (left.T @ made @ right.T).diagonal()
    assert (singular > 0.6).all()
    assert (singular < 1.3).all()
    assert torch.allclose(left * singular @ right, made, atol=1e-4)  # the same directions


def test_matrices_move_as_by_the_library_and_the_others_as_by_adamw() -> None:
    """But for bfloat16, in which the library computes."""
    found, plain = trained(muon(), 3), trained(AdamWSchedule(**SETTINGS), 1)
    first = trained(muon(), 1)
    for name in ("layers.0.bias", "layers.1.bias", "words.weight"):
        torch.testing.assert_close(first[name], plain[name])
    model = Model()
    matrices = [layer.weight for layer in model.layers]
    others = [value for value in model.parameters() if value.ndim == 1 or value is model.words.weight]
    library = torch.optim.Muon(matrices, lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    groups = AdamWSchedule(**SETTINGS).groups([(str(value.ndim), value) for value in others])
    beside = torch.optim.AdamW(groups, lr=0.01)
    begin = Model().state_dict()
    for step in range(3):
        for optimizer in (library, beside):
            for group in optimizer.param_groups:
                group["lr"] = 0.01 * schedule(step, 0, 10)
            optimizer.zero_grad()
        model(tokens(step)).backward()
        library.step()
        beside.step()
    for name in ("layers.0.weight", "layers.1.weight"):
        wanted = model.state_dict()[name] - begin[name]
        assert (found[name] - begin[name] - wanted).norm() < 0.05 * wanted.norm()


class Patches(nn.Module):
    """A convolution of patches, or the linear layer that does the same."""

    def __init__(self, convolution: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        weight = torch.randn(8, 3, 2, 2)
        self.layers = nn.Conv2d(3, 8, 2, 2) if convolution else nn.Linear(12, 8)
        self.layers.weight = nn.Parameter(weight if convolution else weight.flatten(1))
        nn.init.zeros_(self.layers.bias)
        self.depthwise = nn.Conv2d(8, 8, 1, groups=8)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        images = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(int(tokens[0])))
        if isinstance(self.layers, nn.Linear):
            images = nn.functional.unfold(images, 2, stride=2).transpose(1, 2)
        return self.layers(images).tanh().square().sum()


def test_a_convolution_moves_as_the_matrix_that_it_is() -> None:
    found, wanted = (trained(muon(), 3, Patches(convolution)) for convolution in (True, False))
    torch.testing.assert_close(found["layers.weight"].flatten(1), wanted["layers.weight"])


def test_convolutions_of_single_channels_are_adamws() -> None:
    optimizer, _ = MuonSchedule(matrices=[""], **SETTINGS).build(Patches(convolution=True), 10)
    [inside] = [group["params"] for group in optimizer.param_groups if group["momentum"] is not None]
    assert [value.shape for value in inside] == [(8, 3, 2, 2)]


def test_a_run_goes_on_from_what_was_kept() -> None:
    whole, model = trained(muon(), 4), Model()
    optimizer, _ = muon().build(model, 10)
    trained_model = Model()
    first, _ = muon().build(trained_model, 10)
    for step in range(4):
        if step == 2:
            model.load_state_dict(trained_model.state_dict())
            optimizer.load_state_dict(first.state_dict())
            trained_model, first = model, optimizer
        for group in first.param_groups:
            group["lr"] = 0.01 * schedule(step, 0, 10)
        first.zero_grad()
        trained_model(tokens(step)).backward()
        first.step()
    for name, value in model.named_parameters():
        torch.testing.assert_close(value.detach(), whole[name])


def sharded(rank: int, folder: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    for make in (Model, partial(Patches, True)):
        model = make()
        fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
        found = trained(muon(), 3, model)
        for name, value in trained(muon(), 3, make()).items():
            torch.testing.assert_close(found[name].full_tensor(), value, atol=1e-6, rtol=1e-5)
    distributed.destroy_process_group()


def test_weights_that_are_shared_out_move_as_whole_ones(tmp_path: Path) -> None:
    mp.spawn(sharded, args=(str(tmp_path),), nprocs=2)
