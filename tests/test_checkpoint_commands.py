"""What is exported answers as the checkpoint did, merged or not; what is in a checkpoint is told."""

import shlex
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pixel_llm.checkpoint_commands import export, inspect
from pixel_llm.predictor import Predictor
from tests.runs import command, tiny_config, write_config


@pytest.fixture(scope="module")
def lora_run(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trace captioner with LoRA after three steps."""
    folder = tmp_path_factory.mktemp("lora")
    config = tiny_config(toy, folder / "run", steps=3)
    core = dict(config["model"]["init_args"]["core"]["init_args"])
    lora = {"trainable": "lora", "lora_rank": 2, "lora_alpha": 6.0}
    core["language_model"] = core["language_model"] | {"init_args": core["language_model"]["init_args"] | lora}
    config["model"]["init_args"]["core"]["init_args"] = core
    config["model"]["init_args"]["optimizer"]["init_args"]["learning_rate"] = 0.1  # adapters that matter
    done = command("fit", "--config", write_config(folder / "config.yaml", config))
    assert done.returncode == 0, done.stderr
    return folder / "run"


@pytest.fixture(scope="module")
def photo(toy: Path) -> bytes:
    from tests.tiny import toy_narratives

    return toy_narratives(toy).test_dataloader().source.record(0)["jpg"]


def answer(run: Path, photo: bytes) -> torch.Tensor:
    """Locations of the words that a model writes about a photo."""
    return torch.tensor([word.box for word in Predictor(run).caption(photo).words])


def test_an_exported_model_answers_as_its_checkpoint(lora_run: Path, photo: bytes, tmp_path: Path) -> None:
    wanted = answer(lora_run, photo)
    export([str(lora_run), "--out", str(tmp_path / "whole")])
    assert torch.equal(answer(tmp_path / "whole", photo), wanted)
    export([str(lora_run), "--out", str(tmp_path / "merged"), "--merge"])
    torch.testing.assert_close(answer(tmp_path / "merged", photo), wanted, atol=1e-3, rtol=1e-4)
    names = load_file(tmp_path / "merged/model.safetensors").keys()
    assert not [name for name in names if "lora" in name or "base_layer" in name]


def test_trained_weights_alone_need_the_frozen_ones(
    lora_run: Path, photo: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "trained weights"
    export([str(lora_run), "--out", str(out), "--trained-only"])
    assert not [name for name in load_file(out / "model.safetensors") if "base_layer" in name]
    with pytest.raises(FileNotFoundError, match=r"frozen-\w+\.safetensors: missing"):
        Predictor(out)
    said = capsys.readouterr().out.splitlines()[-1]
    subprocess.run(shlex.split(said.partition(": ")[2]), check=True)  # cp FROZEN OUT
    assert torch.equal(answer(out, photo), answer(lora_run, photo))


def test_a_damaged_export_is_named(lora_run: Path, tmp_path: Path) -> None:
    export([str(lora_run), "--out", str(tmp_path)])
    content = bytearray((tmp_path / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.safetensors: not the weights that were exported, or damaged"):
        Predictor(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json: missing from an exported model"):
        Predictor(tmp_path)


def test_a_model_without_adapters_cannot_be_merged(tiny_run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no LoRA adapters"):
        export([str(tiny_run), "--out", str(tmp_path), "--merge"])


def test_a_checkpoint_tells_what_it_holds(lora_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inspect([str(lora_run)])
    said = capsys.readouterr().out
    assert "TraceCaptioning after 3 steps, in epoch 0, with the optimiser's state" in said
    total = sum(parameter.numel() for parameter in Predictor(lora_run).task.state_dict().values())
    assert f"{total:,} float32" in said
    export([str(lora_run), "--out", str(tmp_path)])
    capsys.readouterr()
    inspect([str(tmp_path)])
    assert "without an optimiser's state" in capsys.readouterr().out
