"""The text of the dense-captioning benchmark on Visual Genome (Johnson et al., CVPR 2016, `preprocess.py`)."""

import hashlib
import string
from collections import Counter
from collections.abc import Iterator, Sequence

from datamodules.formats.records import BadRecord, FormatError
from datamodules.formats.regions import Region, RegionSplit

MAX_WORDS = 15
MIN_USES = 15
UNKNOWN = "<UNK>"

_ASCII = str.maketrans(
    {"½": "half", "—": "-", "™": "", "¢": "cent", "ç": "c", "û": "u", "é": "e", "°": " degree", "è": "e", "…": ""}
)
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def benchmark_words(phrase: str) -> list[str]:
    """Lower-cased words without ASCII punctuation; a few other characters are spelled out."""
    return phrase.translate(_ASCII).lower().translate(_NO_PUNCTUATION).split()


def apply_benchmark_text(splits: Sequence[RegionSplit]) -> None:
    """Gives the phrases of all splits the benchmark's text.

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
    for split in splits:
        split.text = f"benchmark {vocabulary}"
        for region in _regions(split):
            region.phrase = " ".join(word if word in known else UNKNOWN for word in benchmark_words(region.phrase))


def _drop_long(split: RegionSplit) -> Iterator[list[str]]:
    """Takes out what is too long; the words of each other phrase."""
    for image in split.images.values():
        kept = []
        for region in image.regions:
            words = benchmark_words(region.phrase)
            if len(words) > MAX_WORDS:
                split.bad.append(BadRecord(region.where, "a phrase of more words than the benchmark has"))
            else:
                kept.append(region)
                yield words
        image.regions = kept


def _regions(split: RegionSplit) -> Iterator[Region]:
    return (region for image in split.images.values() for region in image.regions)
