"""The table of paraphrases: what is found in it, and how it is kept between runs."""

import gzip
import os
from pathlib import Path

import pytest

from pixel_llm.metrics.meteor_python import paraphrases
from pixel_llm.metrics.meteor_python.paraphrases import ParaphraseTable, paraphrase_table

ROWS = [("a dog", "dogs"), ("a dog", "the dog"), ("dog", "a big dog"), ("dog", "puppy"), ("über", "over")]


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/pixel_llm"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return _write(tmp_path / "table.gz", ROWS)


def _write(path: Path, rows: list[tuple[str, str]]) -> Path:
    path.write_bytes(gzip.compress("".join(f"0.5\n{source}\n{target}\n" for source, target in rows).encode()))
    return path


def _check(table: ParaphraseTable) -> None:
    texts = [("a", "dog", "barks"), ("the", "dogs"), ("a", "big", "puppy"), ("über", "over")]
    assert table.among(texts) == {
        ("a", "dog"): {("dogs",): 0, ("the", "dog"): 1},
        ("dog",): {("a", "big", "dog"): 0, ("puppy",): 1},
        ("über",): {("over",): 0},
    }
    assert table.among([("a", "dog", "barks")]) == {}
    assert table.among([]) == {}


def test_is_read_once_and_then_from_the_cache(cache, file, monkeypatch):
    _check(paraphrase_table(file))
    monkeypatch.setattr(paraphrases, "_read", lambda path: pytest.fail("read again"))
    _check(paraphrase_table(file))
    assert len(list(cache.iterdir())) == 1


def test_a_changed_table_is_read_anew(cache, file):
    paraphrase_table(file)
    _write(file, [("dog", "hound")])
    os.utime(file, ns=(1, 1))
    assert paraphrase_table(file).among([("dog", "hound")]) == {("dog",): {("hound",): 0}}


def test_works_where_nothing_can_be_kept(monkeypatch, tmp_path, file, caplog):
    (tmp_path / "blocked").write_text("a file where the folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "blocked"))
    _check(paraphrase_table(file))
    assert "not kept" in caplog.text


def test_a_failed_write_leaves_nothing_behind(cache, file, monkeypatch):
    def full(*arguments):
        raise OSError("no space left on device")

    monkeypatch.setattr(paraphrases.np, "save", full)
    _check(paraphrase_table(file))
    assert list(cache.iterdir()) == []
