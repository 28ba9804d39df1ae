"""How often a rule for binding tokens to the trace takes another word's utterance than the token's own.

    python -m benchmarks.alignment --annotations 'coco_val_localized_narratives.jsonl' --tokenizer DIR

Counts narratives whose utterances, word by word, are the caption's words; there the truth is known.
"""

import argparse
import glob
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from datamodules.formats.localized_narratives import Narrative, read_narratives
from datamodules.prepare.word_times import time_words
from datamodules.token_targets import utterances_by_rank, words_of_tokens
from datamodules.tokenizer import Tokenizer


@dataclass
class Errors:
    """Tokens that belong to a spoken word, and how many of them each rule binds to another one."""

    narratives: int = 0
    tokens: int = 0
    interval: int = 0
    rank: int = 0


def wrong_words(files: Iterable[Path], tokenizer: Tokenizer) -> Errors:
    """Counts over Localized Narratives files."""
    errors = Errors()
    for file in files:
        for narrative in read_narratives(file):
            if isinstance(narrative, Narrative):
                _count(errors, narrative, tokenizer)
    return errors


def _count(errors: Errors, narrative: Narrative, tokenizer: Tokenizer) -> None:
    words = time_words(narrative.caption, narrative.utterances).words
    intervals = [(u.start, u.stop) for u in narrative.utterances]
    if len(words) != len(intervals):
        return
    errors.narratives += 1
    owners = words_of_tokens(tokenizer.encode(narrative.caption)[1], [(w[0], w[1]) for w in words])
    by_rank = utterances_by_rank(len(owners), len(intervals))
    for owner, utterance in zip(owners, by_rank.tolist(), strict=True):
        if owner >= 0:
            errors.tokens += 1
            errors.rank += utterance != owner
            errors.interval += words[owner][2:] != intervals[owner]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotations", nargs="+", required=True, metavar="GLOB")
    parser.add_argument("--tokenizer", required=True, metavar="DIR")
    options = parser.parse_args()
    files = [Path(f) for pattern in options.annotations for f in sorted(glob.glob(pattern))]
    errors = wrong_words(files, Tokenizer(options.tokenizer))
    sys.stdout.write(f"narratives {errors.narratives}, tokens {errors.tokens}\n")
    for rule, wrong in (("interval", errors.interval), ("rank", errors.rank)):
        sys.stdout.write(f"{rule}: {wrong} wrong, {100 * wrong / max(errors.tokens, 1):.1f} %\n")


if __name__ == "__main__":
    main()
