"""The reader of pickles: plain data of every protocol comes back, nothing else is ever run."""

import contextlib
import os
import pickle
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from datamodules.formats.plain_pickle import read_plain_pickle
from datamodules.formats.records import FormatError

PLAIN = [
    {"ref_id": 1, "sentences": [{"sent": "café 猫", "tokens": ["a", "b"]}], "box": (1.5, -2, 10**30), 7: None},
    [True, False, None, 0, 255, 256, -1, 2**31, 2**40, 1e300, "", "x" * 70_000],
    "one string",
    [],
    {},
    (),
    ((1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
]


def write(folder: Path, data: bytes) -> Path:
    path = folder / "refs(unc).p"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("value", PLAIN, ids=range(len(PLAIN)))
def test_plain_data_of_every_protocol(tmp_path: Path, value: Any, protocol: int) -> None:
    found = read_plain_pickle(write(tmp_path, pickle.dumps(value, protocol)))
    assert found == value
    assert type(found) is type(value)


def test_bytes(tmp_path: Path) -> None:
    assert read_plain_pickle(write(tmp_path, pickle.dumps([b"\xff\x00", b""], 3))) == [b"\xff\x00", b""]


# what Python 2.7's cPickle writes for [{'sent': 'caf\xe9', 'raw': u'caf\xe9', 'id': 5L, 'ok': True}]
PYTHON_2 = {
    0: b"(lp1\n(dp2\nS'sent'\np3\nS'caf\\xe9'\np4\nsS'raw'\np5\nVcaf\xe9\np6\nsS'id'\np7\nL5L\nsS'ok'\np8\nI01\nsa.",
    2: b"\x80\x02]q\x01}q\x02(U\x04sentq\x03U\x04caf\xe9q\x04U\x03rawq\x05X\x05\x00\x00\x00caf\xc3\xa9q\x06"
    b"U\x02idq\x07\x8a\x01\x05U\x02okq\x08\x88ua.",
}


@pytest.mark.parametrize("protocol", PYTHON_2)
def test_pickles_of_python_2(tmp_path: Path, protocol: int) -> None:
    found = read_plain_pickle(write(tmp_path, PYTHON_2[protocol]))
    assert found == [{"sent": "café", "raw": "café", "id": 5, "ok": True}]
    assert found[0]["ok"] is True


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_malicious_pickle_does_not_run(tmp_path: Path, protocol: int) -> None:
    trap = tmp_path / "sprung"
    path = write(tmp_path, pickle.dumps([{"ref_id": 1}, Touch(trap)], protocol))
    pickle.loads(path.read_bytes())
    assert trap.is_dir()  # the trap works
    trap.rmdir()
    with pytest.raises(FormatError) as raised:
        read_plain_pickle(path)
    assert not trap.exists()
    assert str(path) in str(raised.value)
    assert "more than plain data" in str(raised.value)
    assert "\n" not in str(raised.value)


BOMBS = {
    "byte array of a terabyte": b"\x80\x05\x96" + (1 << 40).to_bytes(8, "little") + b".",
    "string of a terabyte": b"\x80\x04\x8d" + (1 << 40).to_bytes(8, "little") + b"abc.",
    "number of a million digits": b"I" + b"9" * 1_000_000 + b"\n.",
    "a list in itself": b"]q\x00h\x00a.",
    "lists of the same lists": b"]" + b"".join(b"q%c(h%ch%ch%ch%cl" % (i, i, i, i, i) for i in range(60)) + b".",
    "a key whose hash takes for ever": b"}" + b")" + b"2\x86" * 100 + b"Ns.",
    "a set": pickle.dumps({1, 2}, 4),
    "a class": pickle.dumps(Path, 2),
    "a persistent id": b"Pname\n.",
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_at_once(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, BOMBS[name])
    begin = time.monotonic()
    with pytest.raises(FormatError, match=r"refs\(unc\)\.p: "):
        read_plain_pickle(path)
    assert time.monotonic() - begin < 1


HARMLESS = {
    "memo of two billion places": b"\x80\x02]r\xff\xff\xff\x7f.",
    "frame of a terabyte": b"\x80\x04\x95" + (1 << 40).to_bytes(8, "little") + b"].",
}


@pytest.mark.parametrize("name", HARMLESS)
def test_a_large_number_reserves_no_memory(tmp_path: Path, name: str) -> None:
    tracemalloc.start()
    try:
        assert read_plain_pickle(write(tmp_path, HARMLESS[name])) == []
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()


def test_deep_nesting_is_no_problem(tmp_path: Path) -> None:
    found = read_plain_pickle(write(tmp_path, b"(" * 100_000 + b"l" * 100_000 + b"."))
    depth = 1
    while found:
        found = found[0]
        depth += 1
    assert depth == 100_000


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_cut_short_or_damaged_is_named(tmp_path: Path, protocol: int) -> None:
    whole = pickle.dumps(PLAIN, protocol)
    for end in range(0, len(whole) - 1, 9_771):
        with pytest.raises(FormatError, match="broken pickle"):
            read_plain_pickle(write(tmp_path, whole[:end]))
    for place in range(0, min(len(whole), 300)):
        damaged = bytearray(whole)
        damaged[place] ^= 0x15
        with contextlib.suppress(FormatError):  # and no other error
            read_plain_pickle(write(tmp_path, bytes(damaged)))


def test_other_files_are_named(tmp_path: Path) -> None:
    for data in (b"", b"\n", b"not a pickle", b'{"refs": []}', b"\x1f\x8b"):
        with pytest.raises(FormatError, match="broken pickle"):
            read_plain_pickle(write(tmp_path, data))
