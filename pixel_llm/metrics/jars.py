"""Running the Java programs of the COCO caption protocol, which come as files inside the `pycocoevalcap` package."""

import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

_JAVA_FLAGS = ("-Xmx1G", "-XX:+UseSerialGC", "-Duser.language=en", "-Duser.country=US")
_LINE_BREAKS = re.compile("[\n\r\v\f\u2028\u2029]")


class JarUnavailable(RuntimeError):
    """Java or the package that brings the jars is missing; the message says what to install."""


class JarFailed(RuntimeError):
    """The Java program died, took too long, or answered something else than was asked."""


def find_jar(name: str) -> Path:
    """The path of a jar inside the `pycocoevalcap` package, which is located but not imported.

    Raises JarUnavailable, in one line, where Java, the package or the file is missing.
    """
    if shutil.which("java") is None:
        raise JarUnavailable("no `java` on the PATH: install a Java runtime (Debian: apt install default-jre-headless)")
    package = find_spec("pycocoevalcap")
    if package is None or not package.submodule_search_locations:
        raise JarUnavailable("pycocoevalcap is not installed: pip install 'pixel-llm[captions]'")
    jar = Path(package.submodule_search_locations[0]) / name
    if not jar.is_file():
        raise JarUnavailable(f"{jar} is missing: pip install --force-reinstall 'pycocoevalcap>=1.2'")
    return jar


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
        reason = done.stderr.decode(errors="replace").strip().splitlines()[:1] or ["no message"]
        raise JarFailed(f"java ended with code {done.returncode}: {reason[0]}")
    return done.stdout.decode("utf-8", errors="replace").split("\n")
