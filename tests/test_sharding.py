"""A training with its weights shared out over two processes is that of one, and each goes on from the other."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pixel_llm.sharding import blocks, check_sharded
from pixel_llm.weights.checkpoint import read_checkpoint
from tests.runs import command, tiny_config, write_config
from tests.tiny import tiny_core

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
    done = command("fit", "--config", config, *arguments, "--trainer.logger.init_args.save_dir", run)
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
