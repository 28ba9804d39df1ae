"""The command line: reports, one-line errors, Ctrl-C, and a parent that is killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from datamodules.chat_text import ChatText
from datamodules.dialogue_forms import FORMS
from datamodules.prepare.command import main
from datamodules.shard_index import index_path, open_shards
from datamodules.tokenizer import Tokenizer
from tests.datamodules.prepare.conftest import MakeCorpus, narrative, write_jsonl

Contents = Callable[[Path], dict[str, bytes]]


def arguments(root: Path, out: str = "out", *more: str) -> list[str]:
    found = ["localized-narratives", "--annotations", f"{root}/n-*.jsonl"]
    return [*found, "--images", f"{root}/images", "--out", f"{root}/{out}", *more]


def test_a_conversion_says_what_it_did(make_corpus: MakeCorpus, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_corpus(3)
    assert main(arguments(root, "out", "--workers", "1", "--shard-size", "2")) == 0
    said = capsys.readouterr().out
    assert "images written: 3\n" in said
    assert "records read: 6\n" in said
    assert len(open_shards(root / "out")) == 2


BAD = {
    "no such pattern": (lambda a: [*a[:2], "/nowhere/*.jsonl", *a[3:]], "no annotation file /nowhere/*.jsonl"),
    "no image folder": (lambda a: [*a[:4], "/nowhere", *a[5:]], "no image folder /nowhere"),
    "out is a file": (lambda a: [*a[:6], a[2].replace("*", "0")], "File exists"),
    "no workers": (lambda a: [*a, "--workers", "0"], "'0' is not a whole number above 0"),
    "no option": (lambda a: a[:3], "the following arguments are required: --images, --out"),
    "no command": (lambda a: [], "the following arguments are required: COMMAND"),
    "another format": (lambda a: ["coco-captions", *a[1:]], "n-0.jsonl: broken JSON"),
    "negative seed": (lambda a: ["toy", "--out", "/nowhere/toy", "--seed", "-1"], "'-1' is not a whole number"),
    "index of nothing": (lambda a: ["index", "/nowhere"], "no tar in /nowhere"),
}


@pytest.mark.parametrize("name", BAD)
def test_errors_are_one_line_and_code_2(make_corpus: MakeCorpus, capsys: pytest.CaptureFixture[str], name: str) -> None:
    change, message = BAD[name]
    try:
        code = main(change(arguments(make_corpus(2))))
    except SystemExit as exit:
        code = exit.code
    assert code == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_index_mends_what_does_not_fit(make_corpus: MakeCorpus, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_corpus(6)
    main(arguments(root, "out", "--workers", "1", "--shard-size", "2"))
    tars = sorted((root / "out").glob("*.tar"))
    before = [index_path(tar).read_bytes() for tar in tars]
    index_path(tars[0]).unlink()
    index_path(tars[2]).write_bytes(b"")
    capsys.readouterr()
    assert main(["index", str(root / "out")]) == 0
    assert capsys.readouterr().out == f"indexes written: 2 of 3 shards in {root / 'out'}\n"
    assert [index_path(tar).read_bytes() for tar in tars] == before
    os.truncate(tars[1], 700)
    assert main(["index", str(root / "out")]) == 2
    assert "is truncated" in capsys.readouterr().err


def test_a_tokenizer_of_shards_without_captions_is_refused(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tokenizer", str(toy / "instances_test"), "--out", str(tmp_path / "out")]) == 2
    assert "instances_test holds coco-instances, where localized-narratives or coco-captions" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.fixture
def long_run(tmp_path: Path) -> list[str]:
    """A command whose 20 shards take a while: every image is a link to one large picture."""
    (tmp_path / "images").mkdir()
    Image.effect_noise((1600, 1200), 90).convert("RGB").save(tmp_path / "large.jpg")
    for i in range(40):
        (tmp_path / f"images/{i:012d}.jpg").symlink_to(tmp_path / "large.jpg")
    write_jsonl(tmp_path / "n-0.jsonl", [narrative(str(i)) for i in range(40)])
    command = [sys.executable, "-m", "datamodules.prepare.command"]
    return [*command, *arguments(tmp_path, "out", "--workers", "2", "--shard-size", "2")]


def start_and_wait_for_a_shard(command: list[str], out: Path) -> subprocess.Popen[str]:
    run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    notes = out / "progress.jsonl"
    while not (notes.exists() and notes.read_bytes().count(b"\n") > 1):
        assert run.poll() is None, run.communicate()
        time.sleep(0.01)
    return run


@pytest.mark.parametrize("to_all", [True, False], ids=["terminal", "parent alone"])
def test_ctrl_c_ends_quickly_and_the_same_command_goes_on(
    tmp_path: Path, long_run: list[str], contents: Contents, to_all: bool
) -> None:
    run = start_and_wait_for_a_shard(long_run, tmp_path / "out")
    begin = time.monotonic()
    (os.killpg if to_all else os.kill)(run.pid, signal.SIGINT)
    _, said = run.communicate(timeout=20)
    assert time.monotonic() - begin < 5
    assert run.returncode == 130
    assert said == f"pixel-llm prepare: interrupted; the same command goes on in {tmp_path / 'out'}\n"
    assert not list((tmp_path / "out").glob("*.part"))
    finished = len(list((tmp_path / "out").glob("*.index.npz")))
    assert 1 <= finished < 20
    assert main(long_run[3:]) == 0
    interrupted = contents(tmp_path / "out")
    assert main([part.replace(f"{tmp_path}/out", f"{tmp_path}/whole") for part in long_run[3:]]) == 0
    assert interrupted == contents(tmp_path / "whole")


def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path, long_run: list[str]) -> None:
    """The workers hold the other end of the error stream; it closes when the last of them is gone."""
    run = start_and_wait_for_a_shard(long_run, tmp_path / "out")
    run.kill()
    run.communicate(timeout=10)
    assert run.returncode == -signal.SIGKILL


@pytest.mark.parametrize("kind", ["narratives_train", "toy_unc_train"])
def test_a_tokenizer_for_dialogues_knows_every_character_of_their_wording(toy: Path, tmp_path: Path, kind: str) -> None:
    unknown = {}
    for more in ([], ["--dialogues"]):
        out = tmp_path / "out" / "".join(more)
        assert main(["tokenizer", str(toy / kind), "--vocabulary-size", "400", "--out", str(out), *more]) == 0
        chat = ChatText(Tokenizer(str(out)))
        said = [chat.encode(form, sentence="", phrase="", masks="") for form in FORMS]
        [unk] = chat.encode("{a}", a="犬")[-1:]
        unknown[bool(more)] = sum(ids.count(unk) for ids in said)
        lengths = [len(ids) for ids in said]
    assert unknown[True] == 0 < unknown[False]
    assert sum(lengths) < 10 * len(lengths)  # in pieces, not letter by letter
