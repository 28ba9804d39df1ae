"""A file is what it was or what it should become, also where the disk is full or nobody may write."""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pixel_llm.whole_files import whole_file


def test_a_file_takes_its_place_only_when_it_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "new" / "file"
    with whole_file(file) as part:
        part.write_text("one")
        assert not file.exists()
    assert file.read_text() == "one"
    with pytest.raises(KeyError), whole_file(file):
        raise KeyError
    assert file.read_text() == "one"
    assert os.listdir(file.parent) == ["file"]


def test_others_may_read_what_they_may_read_of_any_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    with whole_file(tmp_path / "file") as part:
        save_file({"a": torch.zeros(1)}, part)  # for its owner alone
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError, match="file/below cannot be written: "), whole_file(tmp_path / "file" / "below"):
        pass


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk: the second checkpoint does not fit."""
    program = (
        "import torch, sys\n"
        "from pixel_llm.checkpoint_io import CheckpointFiles\n"
        "for size in (10, 10**6):\n"
        "    CheckpointFiles().save_checkpoint({'config': '', 'state_dict': {'a': torch.ones(size)}}, sys.argv[1])\n"
    )

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    file = tmp_path / "last.ckpt"
    done = subprocess.run(
        [sys.executable, "-c", program, file], capture_output=True, text=True, preexec_fn=limit, check=False
    )
    assert "OSError" in done.stderr.splitlines()[-1]
    assert f"{file} cannot be written: " in done.stderr.splitlines()[-1]
    assert 0 < file.stat().st_size < 100_000
    assert os.listdir(tmp_path) == ["last.ckpt"]
