"""The commands: which verb goes where, and errors in one line with code 2."""

import sys
from importlib.metadata import EntryPoint

import pytest

from datamodules.shard_index import ShardError
from pixel_llm import cli


def say(monkeypatch: pytest.MonkeyPatch, command: str, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", [command, *arguments])
    return cli.lightning() if command == "lightning" else cli.main()


def offer(monkeypatch: pytest.MonkeyPatch, *entries: EntryPoint) -> None:
    monkeypatch.setattr(cli, "entry_points", lambda **_: entries)


@pytest.mark.parametrize("command", ["lightning", "pixel-llm"])
@pytest.mark.parametrize("verb", ["fit", "validate", "test", "predict"])
def test_both_commands_train(monkeypatch, command: str, verb: str) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr("pixel_llm.trainer_cli.run", lambda: seen.append(sys.argv[1:]))
    assert say(monkeypatch, command, verb, "--config", "a.yaml") == 0
    assert seen == [[verb, "--config", "a.yaml"]]


def test_lightning_hands_other_verbs_to_another_script_of_its_name(monkeypatch) -> None:
    ours = EntryPoint("lightning", "pixel_llm.cli:lightning", "console_scripts")
    other = EntryPoint("lightning", "os:getpid", "console_scripts")  # any function without arguments
    monkeypatch.setattr("os.getpid", lambda: 17)
    offer(monkeypatch, ours, other)
    assert say(monkeypatch, "lightning", "login", "--cloud") == 17


def test_lightning_without_another_script_answers_itself(monkeypatch, capsys) -> None:
    offer(monkeypatch, EntryPoint("lightning", "pixel_llm.cli:lightning", "console_scripts"))
    assert say(monkeypatch, "lightning", "login") == 2
    assert capsys.readouterr().err == "pixel-llm: no verb 'login' (try --help)\n"


def test_an_unknown_verb_is_one_line_and_code_2(monkeypatch, capsys) -> None:
    assert say(monkeypatch, "pixel-llm", "frobnicate") == 2
    said = capsys.readouterr()
    assert said.err == "pixel-llm: no verb 'frobnicate' (try --help)\n"
    assert not said.out


def test_help_lists_every_verb(monkeypatch, capsys) -> None:
    assert say(monkeypatch, "pixel-llm", "--help") == 0
    said = capsys.readouterr()
    verbs = ("fit", "test", "prepare", "caption", "refer", "describe", "dense", "score")
    assert all(verb in said.out for verb in verbs)
    assert not said.err


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ShardError("no folder of shards at /a"), "no folder of shards at /a"),
        (FileNotFoundError(2, "No such file or directory", "b.ckpt"), "no such file: b.ckpt"),
        (IsADirectoryError(21, "Is a directory", "a"), "a: Is a directory"),
        (OSError("broken"), "broken"),
        (ValueError("first\n  second"), "first second"),
        (ValueError("Caught ValueError in worker 0.\nTraceback\n  f()\nValueError: a.tar: broken"), "a.tar: broken"),
        (ValueError(), "ValueError"),
    ],
)
def test_guarded_turns_an_error_into_one_line(monkeypatch, capsys, error: Exception, line: str) -> None:
    monkeypatch.delenv("PIXEL_LLM_DEBUG", raising=False)

    def fail() -> None:
        raise error

    assert cli.guarded(fail) == 2
    assert capsys.readouterr().err == f"\nerror: {line}\n"


def test_guarded_lets_bugs_through_and_keeps_the_traceback_on_demand(monkeypatch) -> None:
    with pytest.raises(ZeroDivisionError):
        cli.guarded(lambda: 1 / 0)
    monkeypatch.setenv("PIXEL_LLM_DEBUG", "1")
    with pytest.raises(ValueError, match="invalid literal"):
        cli.guarded(lambda: int("x"))


def test_an_interrupt_is_code_130(capsys) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    assert cli.guarded(interrupted) == 130
    assert capsys.readouterr().err == "\ninterrupted\n"
