"""Running the Java programs of the COCO caption protocol, which come as files inside the `pycocoevalcap` package."""

import re
import shutil
import subprocess
from functools import cache
from importlib.util import find_spec
from pathlib import Path

_JAVA_FLAGS = ("-Xmx1G", "-XX:+UseSerialGC", "-Duser.language=en", "-Duser.country=US")
_TRIAL_SECONDS = 30.0  # a healthy Java answers in a fraction of a second
_LINE_BREAKS = re.compile("[\n\r\v\f\u2028\u2029]")


class JarUnavailable(RuntimeError):
    """Java or the package that brings the jars is missing; the message says what to install."""


class JarFailed(RuntimeError):
    """The Java program died, took too long, or answered something else than was asked."""


def find_file(name: str) -> Path:
    """The path of a file inside the `pycocoevalcap` package, which is located but not imported.

    Raises JarUnavailable, in one line, where the package or the file is missing.
    """
    package = find_spec("pycocoevalcap")
    if package is None or not package.submodule_search_locations:
        raise JarUnavailable("pycocoevalcap is not installed: pip install 'pixel-llm[captions]'")
    file = Path(package.submodule_search_locations[0]) / name
    if not file.is_file():
        raise JarUnavailable(f"{file} is missing: pip install --force-reinstall 'pycocoevalcap>=1.2'")
    return file


def find_jar(name: str) -> Path:
    """The path of a jar, by `find_file`, on a machine that can run it.

    Raises JarUnavailable, in one line, where Java does not work either.
    """
    java = shutil.which("java")
    if java is None:
        raise JarUnavailable("no `java` on the PATH: install a Java runtime (Debian: apt install default-jre-headless)")
    problem = _problem_of(java, _TRIAL_SECONDS)
    if problem:
        raise JarUnavailable(problem)
    return find_file(name)


@cache
def _problem_of(java: str, timeout: float) -> str | None:
    """Why this Java is of no use, None where it tells its version: one that hangs costs its time only once."""
    try:
        done = subprocess.run([java, "-version"], capture_output=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return f"{java} does not tell its version in {timeout:.0f} s"
    except OSError as problem:
        return f"{java} cannot be started: {problem}"
    return None if done.returncode == 0 else f"java ended with code {done.returncode}: {_first_line(done.stderr)}"


def _first_line(message: bytes) -> str:
    return (message.decode(errors="replace").strip().splitlines() or ["no message"])[0]


def one_line(text: str) -> str:
    """The text with every line break that Java knows turned to a space: the programs take one text per line."""
    return _LINE_BREAKS.sub(" ", text)


def run_java(arguments: list[str], lines: list[str], timeout: float) -> list[str]:
    """Feeds lines to a Java program at once and returns the lines of its answer.

    timeout: seconds. Raises JarFailed where the program fails or exceeds it.
    """
    text = "".join(line + "\n" for line in lines).encode("utf-8", errors="replace")
    try:
        done = subprocess.run(["java", *_JAVA_FLAGS, *arguments], input=text, capture_output=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        raise JarFailed(f"java took longer than {timeout:.0f} s for {len(lines)} lines") from None
    if done.returncode != 0:
        raise JarFailed(f"java ended with code {done.returncode}: {_first_line(done.stderr)}")
    return done.stdout.decode("utf-8", errors="replace").split("\n")
