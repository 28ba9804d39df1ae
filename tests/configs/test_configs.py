"""Every configuration that comes with the project can be read and describes a run that can be built."""

import re
import shutil
from pathlib import Path

import jsonargparse
import lightning as L
import pytest
import torch
import yaml

from datamodules.tokenizer import Tokenizer
from pixel_llm.predictor import build_task
from pixel_llm.tasks.base import Task
from pixel_llm.trainer_cli import PixelLLMCLI

CONFIGS = Path(__file__).parents[2] / "configs"
FILES = sorted(path.relative_to(CONFIGS) for path in CONFIGS.rglob("*.yaml"))
TOKENIZERS = {name for path in FILES for name in re.findall(r"tokenizer: (\S+)", (CONFIGS / path).read_text())}
STRATEGIES = [path for path in FILES if path.parts[0] == "trainer"]
RUNS = [path for path in FILES if "model" in yaml.safe_load((CONFIGS / path).read_text())]


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    yield
    jsonargparse.set_parsing_settings(import_path_denylist=[], import_path_allowlist=[])


@pytest.mark.parametrize("path", RUNS, ids=str)
def test_a_run_can_be_built(path: Path, toy: Path, tmp_path: Path) -> None:
    """Model without memory, data and trainer; and the model again from what a checkpoint would carry."""
    for folder in TOKENIZERS:
        shutil.copytree(toy / "tokenizer", tmp_path / folder, dirs_exist_ok=True)
    before = set(tmp_path.rglob("*"))
    with torch.device("meta"):
        cli = PixelLLMCLI(run=False, args=["--config", str(CONFIGS / path)])
    assert isinstance(cli.model, Task)
    assert cli.datamodule.tokenizer.to_json() == Tokenizer(str(toy / "tokenizer")).to_json()
    assert isinstance(cli.trainer, L.Trainer)
    assert cli.trainer.max_steps > 0 or cli.trainer.max_epochs > 0
    carried = yaml.safe_load(cli.parser.dump(cli.config, skip_none=False))
    with torch.device("meta"):
        again = build_task(carried["model"])
    shapes = [{name: p.shape for name, p in task.named_parameters()} for task in (cli.model, again)]
    assert shapes[0] == shapes[1]
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("path", STRATEGIES, ids=str)
def test_a_strategy_goes_over_a_run(path: Path, toy: Path, tmp_path: Path) -> None:
    """All that this machine may lack is one device of the kind."""
    shutil.copytree(toy / "tokenizer", tmp_path / "toy/tokenizer")
    files = ["--config", str(CONFIGS / "trace/toy.yaml"), "--config", str(CONFIGS / path)]
    with torch.device("meta"):
        cli = PixelLLMCLI(run=False, args=[*files, "--trainer.accelerator=cpu", "--trainer.devices=1"])
    assert cli.trainer.max_steps == 900
    wanted = yaml.safe_load((CONFIGS / path).read_text())["trainer"]
    assert cli.trainer.precision == wanted["precision"]
    name = wanted.get("strategy", {}).get("class_path", "SingleDeviceStrategy").rpartition(".")[2]
    assert type(cli.trainer.strategy).__name__ == name


PIECES = [path for path in FILES if path not in RUNS and path not in STRATEGIES]


@pytest.mark.parametrize("path", PIECES, ids=str)
def test_a_piece_belongs_to_a_run(path: Path) -> None:
    assert any(path.name in (CONFIGS / other).read_text() for other in FILES if other != path)
