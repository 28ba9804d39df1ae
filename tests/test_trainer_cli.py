"""Training from YAML: what is wrong with a configuration or a checkpoint is one line that names it, with code 2."""

import copy
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonargparse
import pytest
import torch
import yaml

from pixel_llm import cli
from tests.runs import CORE, tiny_config, tiny_referring_config, write_config

Config = dict[str, Any]


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    """No debugging, no Java (slow to start), no messages about devices, and the parser's settings as they were."""
    for logger in ("lightning.pytorch", "lightning.fabric"):
        caplog.set_level(logging.WARNING, logger)
    monkeypatch.delenv("PIXEL_LLM_DEBUG", raising=False)
    monkeypatch.setenv("PATH", "")
    yield
    jsonargparse.set_parsing_settings(import_path_denylist=[], import_path_allowlist=[])


def put(path: str, value: object) -> Callable[[Config], None]:
    """A change of a configuration at a dotted path."""

    def change(config: Config) -> None:
        *parents, last = path.split(".")
        for name in parents:
            config = config.setdefault(name, {})
        config[last] = value

    return change


Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """run(verb, *arguments, change=...) -> exit code and what the standard error says."""

    def call(verb: str, *arguments: object, change: Callable[[Config], None] = lambda _: None) -> tuple[int, str]:
        config = copy.deepcopy(tiny_config(toy, tmp_path / "run", steps=2))
        change(config)
        file = write_config(tmp_path / "config.yaml", config)
        monkeypatch.setattr(sys, "argv", ["pixel-llm", verb, "--config", str(file), *map(str, arguments)])
        try:
            code = cli.main()
        except SystemExit as exit:
            code = exit.code
        return code, capfd.readouterr().err

    return call


def own_lines(said: str) -> list[str]:
    """The error without Lightning's warnings about folders."""
    return [line for line in said.splitlines() if line.strip() and "exists and is not empty" not in line]


def test_training_says_nothing_that_nobody_can_act_on(tiny_run: Path) -> None:
    said = (tiny_run / "stderr").read_text()
    assert "LeafSpec" not in said
    assert "eval mode" not in said
    assert "Tip:" not in said


def test_a_training_says_what_it_is_of_and_where_its_result_is(tiny_run: Path) -> None:
    assert (tiny_run / "stderr").read_text().endswith(
        f"\nfinished after step 2, saved as {tiny_run / 'checkpoints/last.ckpt'}\n"
    )  # fmt: skip
    rows = [line.split() for line in (tiny_run / "stdout").read_text().splitlines()]
    assert ["core.location_head", "LocationHead", "372", "372"] in rows
    core = sum(int(row[2].replace(",", "")) for row in rows if row[0].startswith("core."))
    assert ["all", "TraceCaptioning", f"{core:,}"] in [row[:3] for row in rows]


TYPOS = {
    "model": ("model.init_args.max_tokenz", 3, "max_tokenz"),
    "core": ("model.init_args.core.init_args", {**CORE, "extractor_widht": 3}, "extractor_widht"),
    "data": ("data.init_args.image_siz", 64, "image_siz"),
    "trainer": ("trainer.max_stepz", 3, "trainer.max_stepz"),
    "section": ("trainerr.max_steps", 3, "trainerr"),
    "value": ("trainer.max_steps", "many", "trainer.max_steps"),
    "class": ("model.class_path", "pixel_llm.tasks.trace_captioning.Trace", "has no attribute 'Trace'"),
    "foreign class": ("model.class_path", "subprocess.Popen", "'subprocess.Popen' is not allowed"),
    "foreign callback": (
        "trainer.callbacks", [{"class_path": "shutil.rmtree"}], "'shutil.rmtree' is not allowed",
    ),
    "tokenizer": ("data.init_args.tokenizer", "/nowhere/tokenizer", "no tokenizer at /nowhere/tokenizer"),
    "shards": ("data.init_args.train_shards", ["/nowhere/shards"], "no folder of shards at /nowhere/shards"),
}  # fmt: skip


@pytest.mark.parametrize("name", TYPOS)
def test_a_mistake_in_the_configuration_is_named(run: Run, name: str) -> None:
    path, value, named = TYPOS[name]
    code, said = run("fit", change=put(path, value))
    assert code == 2
    (line,) = own_lines(said)
    assert line.startswith("error: ")
    assert named in line
    assert len(line) < 400


def test_a_foreign_class_is_not_run(run: Run, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    model = {"class_path": "shutil.rmtree", "init_args": {"path": str(victim)}}
    assert run("fit", change=put("model", model))[0] == 2
    assert victim.is_dir()


def test_a_missing_configuration_is_named(run: Run) -> None:
    code, said = run("fit", "--config", "/nowhere/config.yaml")
    assert code == 2
    assert len(own_lines(said)) == 1
    assert "/nowhere/config.yaml" in said


@pytest.mark.parametrize("verb", ["fit", "test"])
def test_a_missing_checkpoint_is_named(run: Run, verb: str) -> None:
    code, said = run(verb, "--ckpt_path", "/nowhere/last.ckpt")
    assert code == 2
    assert own_lines(said) == ["error: Checkpoint file not found: /nowhere/last.ckpt"]


@pytest.mark.parametrize("verb", ["fit", "test"])
def test_a_file_that_is_no_checkpoint_is_named(run: Run, tmp_path: Path, verb: str) -> None:
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    torch.save({"weights": torch.ones(1)}, tmp_path / "other.ckpt")
    for name, reason in (("text", "not a checkpoint, or a damaged one"), ("other", "not a checkpoint of pixel_llm")):
        code, said = run(verb, "--ckpt_path", tmp_path / f"{name}.ckpt")
        assert code == 2
        (line,) = own_lines(said)
        assert line.startswith(f"error: {tmp_path}/{name}.ckpt: {reason}")


def test_all_missing_data_are_named_at_once(run: Run) -> None:
    def lose(config: Config) -> None:
        put("data.init_args.tokenizer", "/nowhere/words")(config)
        put("data.init_args.val_shards", ["/nowhere/a", "/nowhere/b"])(config)
        put("data.init_args.test_shards", ["/nowhere/c"])(config)  # not needed to train

    code, said = run("fit", change=lose)
    assert code == 2
    assert own_lines(said) == [
        "error: no folder of shards at /nowhere/a; no folder of shards at /nowhere/b; no tokenizer at /nowhere/words"
    ]


BEFORE_THE_MODEL = put("model.init_args.core.init_args", {**CORE, "extractor_heads": 0})  # which cannot be made


@pytest.mark.parametrize("verb", ["fit", "test"])
def test_a_missing_or_other_checkpoint_is_refused_before_a_model_is_made(run: Run, tiny_run: Path, verb: str) -> None:
    def other(config: Config) -> None:
        BEFORE_THE_MODEL(config)
        put("model.class_path", "pixel_llm.tasks.image_captioning.ImageCaptioning")(config)
        config["model"]["init_args"].pop("location_weight", None)

    code, said = run(verb, "--ckpt_path", "/nowhere/last.ckpt", change=BEFORE_THE_MODEL)
    assert (code, own_lines(said)) == (2, ["error: Checkpoint file not found: /nowhere/last.ckpt"])
    checkpoint = tiny_run / "checkpoints/last.ckpt"
    code, said = run(verb, "--ckpt_path", checkpoint, change=other)
    wanted = f"error: {checkpoint}: a checkpoint of TraceCaptioning, not of ImageCaptioning"
    assert (code, own_lines(said)) == (2, [wanted])


def test_unfinished_shards_and_missing_weights_are_refused_before_a_model_is_made(run: Run, tmp_path: Path) -> None:
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun/progress.jsonl").touch()
    weights = {"class_path": "pixel_llm.weights.start.StartingWeights", "init_args": {"core": "/nowhere/last.ckpt"}}

    def lose(config: Config) -> None:
        BEFORE_THE_MODEL(config)
        put("model.init_args.weights", weights)(config)
        put("data.init_args.val_shards", [str(tmp_path / "begun")])(config)

    code, said = run("fit", change=lose)
    assert (code, own_lines(said)) == (2, [
        f"error: the conversion into {tmp_path / 'begun'} has not finished: run its command again to go on; "
        "/nowhere/last.ckpt: no such file; it is the starting weights' 'core'"
    ])  # fmt: skip


def test_a_run_folder_in_use_is_refused_before_a_model_is_made(run: Run, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    hold = "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.lockf(f, fcntl.LOCK_EX); f.write('me');"
    hold += "f.flush(); print(flush=True); sys.stdin.read()"
    line = [sys.executable, "-c", hold, str(tmp_path / "run/run.lock")]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        code, said = run("fit", change=BEFORE_THE_MODEL)
        other.communicate()
    wanted = f"error: {tmp_path / 'run'}: another training is writing here (me); wait for it or stop it"
    assert (code, own_lines(said)) == (2, [wanted])


def test_a_checkpoint_of_another_task_is_named(run: Run, tiny_run: Path) -> None:
    checkpoint = tiny_run / "checkpoints/last.ckpt"
    other = put("model.class_path", "pixel_llm.tasks.image_captioning.ImageCaptioning")
    code, said = run("test", "--ckpt_path", checkpoint, change=other)
    assert code == 2
    assert own_lines(said) == [f"error: {checkpoint}: a checkpoint of TraceCaptioning, not of ImageCaptioning"]


@pytest.mark.parametrize("verb", ["fit", "test"])
def test_a_checkpoint_of_another_size_is_named(run: Run, tiny_run: Path, verb: str) -> None:
    checkpoint = tiny_run / "checkpoints/last.ckpt"
    for changed, reason in (
        ({"query_tokens": 8}, "another size: core.prompt_feature_extractor.query_tokens has shape (4, 16), the"),
        ({"location_depth": 3}, "does not fit: lacks core.location_head.mlp.layers.2.bias, "),
    ):
        code, said = run(
            verb, "--ckpt_path", checkpoint, change=put("model.init_args.core.init_args", {**CORE, **changed})
        )
        assert code == 2
        (line,) = own_lines(said)
        assert line.startswith(f"error: {checkpoint}: {reason}")


def test_last_begins_anew_for_a_training_but_not_for_an_evaluation(run: Run) -> None:
    code, said = run("test", "--ckpt_path", "last")
    assert code == 2
    assert own_lines(said) == ["error: there is no last checkpoint where this configuration writes them"]
    assert run("fit", "--ckpt_path", "last")[0] == 0


def test_a_checkpoint_that_cannot_be_written_ends_the_run_and_leaves_the_last_good_one(
    run: Run, tmp_path: Path
) -> None:
    last = tmp_path / "run/checkpoints/last.ckpt"
    assert run("fit", "--trainer.max_steps", 1)[0] == 0
    good, obstacle = last.read_bytes(), last.with_name("last.ckpt.part")
    obstacle.mkdir()  # root may write everywhere, but nobody into a folder as into a file
    code, said = run("fit", "--ckpt_path", "last", "--trainer.max_steps", 3)
    assert code == 2
    assert own_lines(said)[-1].startswith(f"error: {last} cannot be written: ")
    assert "Traceback" not in said
    assert last.read_bytes() == good
    obstacle.rmdir()
    assert run("fit", "--ckpt_path", "last", "--trainer.max_steps", 3)[0] == 0
    assert torch.load(last, weights_only=True)["global_step"] == 3


def test_a_run_folder_that_cannot_be_made_is_one_line(run: Run, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("no folder")
    code, said = run("fit")
    assert code == 2
    assert own_lines(said)[-1].startswith(f"error: {tmp_path}/run: ")
    assert "Traceback" not in said


def test_the_command_line_beats_the_checkpoint(run: Run, tiny_run: Path, tmp_path: Path) -> None:
    code, said = run("fit", "--ckpt_path", tiny_run / "checkpoints/last.ckpt", "--trainer.max_steps", 3,
                     "--model.init_args.location_weight", 0.7)  # fmt: skip
    assert code == 0, said
    content = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    assert content["global_step"] == 3
    config = yaml.safe_load(content["config"])
    assert config["model"]["init_args"]["location_weight"] == 0.7


def test_configurations_may_be_split_over_files(run: Run, tmp_path: Path) -> None:
    write_config(tmp_path / "core.yaml", {"class_path": "pixel_llm.core.build.pixel_llm", "init_args": CORE})
    code, said = run("fit", "--trainer.max_steps", 1, change=put("model.init_args.core", "core.yaml"))
    assert code == 0, said


def test_an_evaluation_prints_its_figures_once_and_their_names_in_full(
    toy: Path, tiny_referring_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    config = write_config(tmp_path / "config.yaml", tiny_referring_config(toy, tmp_path / "run"))
    monkeypatch.setenv("COLUMNS", "40")
    more = ["--ckpt_path", str(tiny_referring_run / "checkpoints/last.ckpt"), "--trainer.limit_val_batches", "1"]
    for verb, printed in (("test", ["split", "toy_unc_test"]), ("validate", ["val/toy_unc_val/p50", "val/loss"])):
        monkeypatch.setattr(sys, "argv", ["pixel-llm", verb, "--config", str(config), *more])
        assert cli.main() == 0
        beginnings = [line.split(maxsplit=1)[0] for line in capfd.readouterr().out.splitlines() if line.strip()]
        assert all(beginnings.count(name) == 1 for name in printed)
        assert not any(name.startswith(("test/", "─", "┃")) for name in beginnings)
