"""The ablations: every row gets the same, nothing is done twice, and the tables say what was measured."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import mean, stdev
from types import SimpleNamespace

import jsonargparse
import pytest
import torch

from benchmarks import ablations
from pixel_llm.trainer_cli import PixelLLMCLI

CONFIGS = Path(__file__).parents[2] / "configs"


class Trainer:
    """Stands in for the commands: notes them, and answers tests with figures of its own."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.broken = ""
        self.p50: dict[str, list[float]] = {}

    def __call__(self, command: list[str], **_: object) -> SimpleNamespace:
        if command[0] == "git":
            return SimpleNamespace(stdout="abc123\n")
        self.commands.append(command)
        folder = Path(argument(command, "--trainer.logger.init_args.save_dir"))
        if self.broken and self.broken in str(folder):
            return SimpleNamespace(returncode=1)
        if "test" in command:
            score = len(self.commands) / 1000
            self.p50.setdefault(folder.parent.name, []).append(score)
            unreadable = {"unreadable": 0.5} if "string" in str(folder) else {}
            figures = {"toy_unc_test/p50": score, "toy_unc_test/p50_relation": score / 2, **unreadable}
            (folder / "test.json").write_text(json.dumps(figures))
        return SimpleNamespace(returncode=0)


def argument(command: list[str], name: str) -> str:
    return next(a for a in command if a.startswith(f"{name}=")).split("=", 1)[1]


@pytest.fixture
def trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trainer:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    stand_in = Trainer()
    monkeypatch.setattr(subprocess, "run", stand_in)
    monkeypatch.setattr(sys, "argv", ["ablations", "--jobs", "2", "--steps", "101"])
    return stand_in


def test_every_row_and_seed_gets_the_same_number_of_steps(trainer: Trainer) -> None:
    ablations.main()
    spent: dict[str, int] = {}
    for command in trainer.commands:
        folder = argument(command, "--trainer.logger.init_args.save_dir").removesuffix("/trace")
        if "fit" in command and "language_model" not in folder:
            spent[folder] = spent.get(folder, 0) + int(argument(command, "--trainer.max_steps"))
            assert f"--seed_everything={folder[-1]}" in command
    assert set(spent.values()) == {101}
    assert len(spent) == (4 + 6) * 3


def test_the_tables_hold_mean_and_spread(trainer: Trainer) -> None:
    ablations.main()
    table = Path("docs/ablations.md").read_text()
    kept = json.loads(Path("docs/ablations.json").read_text())["rows"]
    assert kept.keys() == trainer.p50.keys()
    for key, scores in trainer.p50.items():
        assert sorted(kept[key]["p50"]) == sorted(scores)
        assert f"{100 * mean(scores):.1f} ± {100 * stdev(scores):.1f}" in table
    assert [line.count("|") for line in table.splitlines() if line.startswith("|")] == [6] * 6 + [7] * 5
    assert table.count("50.0 ± 0.0") == 1  # unreadable strings


def test_what_is_done_is_not_repeated_and_what_broke_is(trainer: Trainer) -> None:
    trainer.broken = "bins/seed_1"
    with pytest.raises(RuntimeError, match=r"fit failed, see runs/ablations/101_steps/bins/seed_1/fit\.log"):
        ablations.main()
    assert not Path("docs/ablations.md").exists()
    done = [c for c in trainer.commands if trainer.broken not in str(c)]
    trainer.broken, trainer.commands = "", []
    ablations.main()
    assert not [c for c in trainer.commands if c in done]
    trainer.commands = []
    ablations.main()
    assert not trainer.commands


def test_the_trainer_understands_the_commands(trainer: Trainer, toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The two stages of the smallest language model with adapters, and its own pretraining."""
    ablations.main()
    shutil.copytree(toy / "tokenizer", "toy/tokenizer")
    shutil.copytree(CONFIGS, "configs")
    fits = {argument(c, "--trainer.logger.init_args.save_dir"): c for c in trainer.commands if "fit" in c}
    last, trained = "runs/ablations/101_steps/tiny_lora/seed_2", []
    try:
        for folder in ("runs/ablations/language_model_tiny", f"{last}/trace", last):
            arguments = [a for a in fits[folder][4:] if not a.startswith("--ckpt_path")]
            monkeypatch.setattr(sys, "argv", ["lightning", *arguments])
            with torch.device("meta"):
                cli = PixelLLMCLI(run=False)
            language_model = getattr(cli.model.core, "language_model", cli.model.core)
            assert language_model.width == ablations.SIZES["tiny"][0]
            trained.append({n.split(".")[-2] for n, p in language_model.model.named_parameters() if p.requires_grad})
    finally:
        jsonargparse.set_parsing_settings(import_path_denylist=[], import_path_allowlist=[])
    assert trained[1] == trained[2] != trained[0]
