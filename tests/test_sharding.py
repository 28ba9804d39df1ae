"""A training with its weights shared out over two processes is that of one, and each goes on from the other."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor

from pixel_llm.core.proposal_head import ProposalHead
from pixel_llm.sharding import blocks, check_sharded, shard
from pixel_llm.tasks.joint import JointTraining
from pixel_llm.weights.checkpoint import read_checkpoint
from tests.runs import PROPOSAL_HEAD, command, tiny_config, tiny_optimizer, write_config
from tests.tiny import tiny_core, toy_referring, toy_regions

CONFIGS = Path(__file__).parents[1] / "configs/trainer"
TWO = ["--trainer.accelerator", "cpu", "--trainer.devices", 2, "--trainer.precision", "32-true"]
ONE = ["--data.init_args.batch_size", 4]
SHARES = ["--trainer.strategy.init_args.sharded_checkpoints", "true"]


def over(name: str) -> list[object]:
    return ["--config", CONFIGS / f"{name}.yaml", *TWO]


@pytest.fixture(scope="module")
def config(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six steps with LoRA and two validations; a checkpoint every second step, all of them kept."""
    folder = tmp_path_factory.mktemp("sharding")
    made = tiny_config(toy, folder / "run", steps=6)
    lora = {"dropout": 0.0, "trainable": "lora", "lora_rank": 2}
    made["model"]["init_args"]["core"]["init_args"] = {**made["model"]["init_args"]["core"]["init_args"]}
    core = made["model"]["init_args"]["core"]["init_args"]
    language_model = core["language_model"]
    core["language_model"] = {**language_model, "init_args": language_model["init_args"] | lora}
    made["data"]["init_args"]["batch_size"] = 2
    made["trainer"] |= {"limit_val_batches": 1, "gradient_clip_val": 1.0, "val_check_interval": 3}
    pictures = {"class_path": "callbacks.trace_pictures.TracePictures", "init_args": {"every_n_steps": 2}}
    made["trainer"]["callbacks"].append(pictures)  # which the first process draws while the other one goes on
    made["trainer"]["callbacks"][0]["init_args"] = {"every_n_train_steps": 2, "keep": 3}
    return write_config(folder / "config.yaml", made)


def train(config: Path, name: str, *arguments: Any) -> Path:
    """The checkpoints of a training in a folder of its own."""
    run = config.parent / name
    done = command("fit", "--config", config, *arguments, "--trainer.logger.init_args.save_dir", run, timeout=600)
    assert done.returncode == 0, done.stderr
    return run / "checkpoints"


def weights(checkpoint: Path) -> dict[str, Tensor]:
    """Without the biases of attention keys: the softmax takes them away, their gradients are rounding alone."""
    state = read_checkpoint(checkpoint)["state_dict"]
    return {name: value for name, value in state.items() if not name.endswith(("k_proj.bias", "qkv.bias"))}


@pytest.mark.slow
def test_shared_out_weights_train_as_in_one_process_and_each_goes_on_from_the_other(config: Path) -> None:
    one = train(config, "one", *ONE)
    sharded = train(config, "sharded", *over("fsdp"))
    shares = train(config, "shares", *over("fsdp"), *SHARES, "--ckpt_path", one / "step_000000002.ckpt")
    back = train(config, "back", *ONE, "--ckpt_path", shares / "step_000000004.ckpt")
    wanted = weights(one / "last.ckpt")
    for run in (sharded, shares, back):
        torch.testing.assert_close(weights(run / "last.ckpt"), wanted, atol=1e-6, rtol=0)
    assert {file.name for file in (shares / "last.ckpt").iterdir()} == {"rank_00000.pt", "rank_00001.pt"}
    assert len(list(shares.glob("*.shares"))) == 1  # earlier ones are deleted
    (shares / "last.ckpt" / "rank_00001.pt").unlink()
    with pytest.raises(ValueError, match=r"rank_00001\.pt: missing; the folder is no whole checkpoint"):
        read_checkpoint(shares / "last.ckpt")


def test_the_blocks_are_those_of_the_encoders_and_the_language_model() -> None:
    core = tiny_core()
    found = list(blocks(core))
    language_model = core.language_model.model
    listed = [*core.sam_encoder.blocks, *core.tuned_encoder.blocks]
    listed += [*language_model.encoder.block, *language_model.decoder.block]
    assert {id(block) for block in found} == {id(block) for block in listed}


def test_what_would_train_unshared_is_refused() -> None:
    module = nn.Linear(2, 2)
    module.bias.requires_grad_(False)
    with pytest.raises(RuntimeError, match=r"every process would train its own: weight$"):
        check_sharded(module)


def joint_gradients(toy: Path, mesh: DeviceMesh | None = None) -> list[dict[str, Tensor]]:
    """Of joint training on a batch of regions, of which queries use nothing, and on one of queries."""
    core = tiny_core(proposal_head=lambda channels: ProposalHead(channels, **PROPOSAL_HEAD["init_args"]))
    task = JointTraining(core, tiny_optimizer())
    task.log = lambda *_, **__: None  # type: ignore[method-assign]
    if mesh is not None:
        shard(task, core, mesh)
    found = []
    for data in (toy_regions(toy), toy_referring(toy)):
        torch.manual_seed(0)  # boxes are drawn
        task.training_step(next(iter(data.train_dataloader())), 0).backward()
        grads = {name: value.grad for name, value in task.named_parameters() if value.grad is not None}
        found.append({n: g.full_tensor() if isinstance(g, DTensor) else g for n, g in grads.items()})
        task.zero_grad()
    return found


def _one_of_two(rank: int, toy: Path, out: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{out}.store", rank=rank, world_size=2)
    found = joint_gradients(toy, init_device_mesh("cpu", (2,)))
    if rank == 0:
        torch.save(found, out)
    distributed.destroy_process_group()


@pytest.mark.slow
def test_joint_training_has_the_same_gradients_where_weights_are_shared_out(toy: Path, tmp_path: Path) -> None:
    """Both processes have the same batches, so that their mean is that of one."""
    torch.multiprocessing.spawn(_one_of_two, (toy, tmp_path / "gradients.pt"), nprocs=2)
    wanted = joint_gradients(toy)
    assert wanted[0].keys() == wanted[1].keys()
    torch.testing.assert_close(torch.load(tmp_path / "gradients.pt"), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_the_strategies_train_in_bfloat16(config: Path) -> None:
    """At the precision that their files ask for: losses are those of float32 but for rounding."""
    short = ["--trainer.max_steps", 3, "--trainer.limit_val_batches", 0]
    one = losses(train(config, "float32", *ONE, *short))
    for strategy in ("ddp", "fsdp"):
        over_it = ["--config", CONFIGS / f"{strategy}.yaml", "--trainer.accelerator", "cpu", "--trainer.devices", 1]
        found = losses(train(config, f"bfloat16_{strategy}", *over_it, *ONE, *short))
        assert found != one
        assert found == pytest.approx(one, rel=0.02)


def losses(checkpoints: Path) -> list[float]:
    with (checkpoints.parent / "metrics.csv").open() as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_compiled_blocks_train_in_two_processes_as_others_in_one(config: Path, strategy: str) -> None:
    compiled = ["--trainer.callbacks+=callbacks.compilation.Compilation", "--trainer.callbacks.backend", "aot_eager"]
    short = ["--trainer.max_steps", 2, "--trainer.limit_val_batches", 0]
    one = train(config, f"one_{strategy}", *ONE, *short)
    two = train(config, f"compiled_{strategy}", *over(strategy), *compiled, *short)
    torch.testing.assert_close(weights(two / "last.ckpt"), weights(one / "last.ckpt"), atol=1e-6, rtol=0)
