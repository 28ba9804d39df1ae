"""The word lists of METEOR 1.5 inside the `pycocoevalcap` package: in its jar, which is a zip file, and beside it."""

from pathlib import Path
from zipfile import ZipFile

from pixel_llm.metrics.jars import find_file


def read_lines(name: str) -> list[str]:
    """The lines of a word list inside the jar. Raises JarUnavailable where the package is missing."""
    with ZipFile(find_file("meteor/meteor-1.5.jar")) as jar:
        return jar.read(name).decode("utf-8").splitlines()


def paraphrase_file() -> Path:
    """The table of paraphrases, gzipped text. Raises JarUnavailable where the package is missing."""
    return find_file("meteor/data/paraphrase-en.gz")
