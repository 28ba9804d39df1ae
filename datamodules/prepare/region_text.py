"""The text of the dense-captioning benchmark on Visual Genome (Johnson et al., CVPR 2016, `preprocess.py`)."""

import hashlib
import string
from collections import Counter
from collections.abc import Collection, Iterator, Sequence

from datamodules.formats.records import BadRecord, FormatError
from datamodules.formats.regions import Region, RegionSplit

MAX_WORDS = 15
MIN_USES = 15
UNKNOWN = "<UNK>"

_TOO_LONG = "a phrase of more words than the benchmark has"

_ASCII = str.maketrans(
    {"½": "half", "—": "-", "™": "", "¢": "cent", "ç": "c", "û": "u", "é": "e", "°": " degree", "è": "e", "…": ""}
)
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def benchmark_words(phrase: str) -> list[str]:
    """Lower-cased words without ASCII punctuation; a few other characters are spelled out."""
    return phrase.translate(_ASCII).lower().translate(_NO_PUNCTUATION).split()


def apply_benchmark_text(splits: Sequence[RegionSplit]) -> dict[str, list[str]]:
    """Gives the phrases of all splits the benchmark's text; split -> lines that say what was changed.

    Phrases of more than `MAX_WORDS` words are taken out and noted as bad. A word with fewer than `MIN_USES` uses in
    what is left of all splits together becomes `UNKNOWN`: so the benchmark's own script counts.
    Raises FormatError where no split is for training: nearly every word of a small split would become unknown.
    """
    if not any(split.is_training for split in splits):
        names = ", ".join(split.name for split in splits)
        raise FormatError(f"{names}: --benchmark-text counts words over all splits: give the training split too")
    uses = Counter(word for split in splits for words in _drop_long(split) for word in words)
    known = {word for word, count in uses.items() if count >= MIN_USES}
    vocabulary = hashlib.sha256(" ".join(sorted(known)).encode()).hexdigest()
    return {split.name: _replace_rare(split, known, vocabulary) for split in splits}


def _replace_rare(split: RegionSplit, known: Collection[str], vocabulary: str) -> list[str]:
    split.text = f"benchmark {vocabulary}"
    words = unknown = 0
    for region in _regions(split):
        own = [word if word in known else UNKNOWN for word in benchmark_words(region.phrase)]
        region.phrase = " ".join(own)
        words, unknown = words + len(own), unknown + own.count(UNKNOWN)
    long = sum(bad.reason == _TOO_LONG for bad in split.bad)
    return [
        f"benchmark text: {unknown:,} of {words:,} words made {UNKNOWN}",
        f"benchmark text: {long:,} phrases of over {MAX_WORDS} words left out",
    ]


def _drop_long(split: RegionSplit) -> Iterator[list[str]]:
    """Takes out what is too long; the words of each other phrase."""
    for image in split.images.values():
        kept = []
        for region in image.regions:
            words = benchmark_words(region.phrase)
            if len(words) > MAX_WORDS:
                split.bad.append(BadRecord(region.where, _TOO_LONG))
            else:
                kept.append(region)
                yield words
        image.regions = kept


def _regions(split: RegionSplit) -> Iterator[Region]:
    return (region for image in split.images.values() for region in image.regions)
