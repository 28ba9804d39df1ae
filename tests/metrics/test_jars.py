"""Running Java programs: what is missing, what fails, what takes too long."""

import pytest

from pixel_llm.metrics import jars
from pixel_llm.metrics.jars import JarFailed, JarUnavailable, find_jar


def test_missing_package_says_what_to_install(monkeypatch, tmp_path):
    _fake_java(monkeypatch, tmp_path, "exit 0")
    monkeypatch.setattr(jars, "find_spec", lambda name: None)
    with pytest.raises(JarUnavailable, match="pip install"):
        find_jar("meteor/meteor-1.5.jar")


def test_java_that_hangs_is_no_java(monkeypatch, tmp_path):
    _fake_java(monkeypatch, tmp_path, "exec sleep 20")
    monkeypatch.setattr(jars, "_TRIAL_SECONDS", 0.2)
    for _ in range(2):
        with pytest.raises(JarUnavailable, match="does not tell its version"):
            find_jar("meteor/meteor-1.5.jar")


def test_program_that_takes_too_long_is_stopped(monkeypatch, tmp_path):
    _fake_java(monkeypatch, tmp_path, "exec sleep 20")
    with pytest.raises(JarFailed, match="longer than 0 s"):
        jars.run_java([], ["text"], timeout=0.2)


def test_program_that_dies_gives_its_reason(monkeypatch, tmp_path):
    _fake_java(monkeypatch, tmp_path, "echo 'no memory' >&2; exit 3")
    with pytest.raises(JarFailed, match="code 3: no memory"):
        jars.run_java([], ["text"] * 100_000, timeout=20)


def _fake_java(monkeypatch, folder, script: str) -> None:
    program = folder / "java"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
