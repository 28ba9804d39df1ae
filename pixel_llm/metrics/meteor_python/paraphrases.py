"""The table of 5.3 million English paraphrases of METEOR 1.5, as arrays that are read in a moment.

Reading the table itself takes a quarter of a minute, so the arrays are kept in the user's cache folder.
"""

import gzip
import logging
import os
import shutil
import tempfile
from array import array
from collections import defaultdict
from collections.abc import Collection, Iterable
from itertools import count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Phrase = tuple[str, ...]
# To each phrase its paraphrases, numbered in the order of the table.
Paraphrases = dict[Phrase, dict[Phrase, int]]

_FORMAT = 1  # of the arrays
_ARRAYS = ("words", "sources", "first", "targets")

log = logging.getLogger(__name__)


class ParaphraseTable:
    """words: bytes[W], the first being empty, which fills up phrases.  sources: [S, 7] and targets: [T, 7],
    phrases as numbers of words.  first: int64[S + 1]; source s has targets first[s] to first[s + 1].
    """

    def __init__(self, words: NDArray, sources: NDArray, first: NDArray, targets: NDArray) -> None:
        self._words = [word.decode() for word in words.tolist()]
        self._numbers = {word: number for number, word in enumerate(self._words)}
        self._sources, self._first, self._targets = sources, first, targets
        self.longest = sources.shape[1]

    def among(self, texts: Iterable[Phrase]) -> Paraphrases:
        """The part of the table that matters to some texts: phrases in one of them with what their words can say."""
        texts = set(texts)
        known = np.zeros(len(self._words), dtype=bool)
        known[[self._numbers[word] for text in texts for word in text if word in self._numbers]] = True
        known[0] = True
        possible = np.flatnonzero(known[self._sources].all(axis=1))
        rows = dict(zip(self._phrases(self._sources[possible]), possible.tolist(), strict=True))
        found = {phrase: rows[phrase] for text in texts for _, phrase in spans(text, rows, self.longest)}
        return {phrase: paraphrases for phrase, row in found.items() if (paraphrases := self._of(row, known))}

    def _of(self, row: int, known: NDArray[np.bool_]) -> dict[Phrase, int]:
        targets = self._targets[self._first[row] : self._first[row + 1]]
        phrases = self._phrases(targets[known[targets].all(axis=1)])
        return {phrase: order for order, phrase in enumerate(phrases)}

    def _phrases(self, rows: NDArray) -> list[Phrase]:
        return [tuple(self._words[number] for number in row if number) for row in rows.tolist()]


def spans(text: Phrase, phrases: Collection[Phrase], longest: int) -> list[tuple[int, Phrase]]:
    """Where which of the phrases begin in a text, by position, then by length."""
    size = len(text)
    places = ((i, text[i:end]) for i in range(size) for end in range(i + 1, min(i + longest, size) + 1))
    return [(start, phrase) for start, phrase in places if phrase in phrases]


def paraphrase_table(path: Path) -> ParaphraseTable:
    """The table in a file, by way of the arrays in the cache folder, which are written where they are missing.

    They carry the file's size and time in their name. Where the folder cannot be written it goes without.
    """
    stat = path.stat()
    folder = _cache() / f"paraphrases-{_FORMAT}-{stat.st_size}-{stat.st_mtime_ns}"
    if not folder.is_dir():
        log.warning("reading METEOR's table of paraphrases, which takes about 20 s, and only once")
        arrays = _read(path)
        _keep(arrays, folder)
        return ParaphraseTable(**arrays)
    return ParaphraseTable(**{name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in _ARRAYS})


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pixel_llm"


def _read(path: Path) -> dict[str, NDArray]:
    """Reads lines of probability, phrase and paraphrase in turn, sorted by phrase."""
    numbers: defaultdict[bytes, int] = defaultdict(count(1).__next__)
    sources, targets = (array("I"), array("B")), (array("I"), array("B"))  # numbers of words, lengths of phrases
    first = array("q")
    previous = b""
    with gzip.open(path, "rb") as lines:
        for _, source, target in zip(lines, lines, lines, strict=True):
            if source != previous:
                first.append(len(targets[1]))
                _append(sources, source.split(), numbers)
                previous = source
            _append(targets, target.split(), numbers)
    first.append(len(targets[1]))
    dtype = np.min_scalar_type(len(numbers))
    longest = max(max(sources[1]), max(targets[1]))
    return {
        "words": np.array([b"", *numbers]),
        "sources": _padded(*sources, longest, dtype),
        "first": np.array(first),
        "targets": _padded(*targets, longest, dtype),
    }


def _append(phrases: tuple[array, array], words: list[bytes], numbers: dict[bytes, int]) -> None:
    phrases[0].extend([numbers[word] for word in words])
    phrases[1].append(len(words))


def _padded(numbers: array, lengths: array, longest: int, dtype: np.dtype) -> NDArray:
    rows = np.zeros((len(lengths), longest), dtype=dtype)
    rows[np.arange(longest) < np.array(lengths)[:, None]] = numbers
    return rows


def _keep(arrays: dict[str, NDArray], folder: Path) -> None:
    """Writes the arrays beside their place and moves them there as a whole; of two writers the first one wins."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(dir=folder.parent))
    except OSError as problem:
        log.warning("METEOR's table of paraphrases is not kept: %s", problem)
        return
    try:
        for name, values in arrays.items():
            np.save(unfinished / f"{name}.npy", values)
        unfinished.rename(folder)
    except OSError as problem:
        if not folder.is_dir():
            log.warning("METEOR's table of paraphrases is not kept: %s", problem)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
