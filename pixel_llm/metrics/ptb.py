"""The tokenizer of the COCO caption protocol: Penn Treebank tokens, lower case, without punctuation."""

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from unicodedata import category

from pixel_llm.metrics.jars import JarFailed, JarUnavailable, find_jar, one_line, run_java

_TRIAL_SECONDS = 60.0
_JAR = "tokenizer/stanford-corenlp-3.4.1.jar"
# The protocol drops these tokens. It names upper-case brackets only, while lower-casing has made them -lrb- and
# so on, which therefore stay: so do they in every published number.
_DROPPED = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tokenizer:
    """name: what to report beside a score.  tokenize: texts to as many lines of tokens, split by single spaces."""

    name: str
    tokenize: Callable[[list[str]], list[str]]


def ptb_tokenizer() -> Tokenizer:
    """Stanford's tokenizer where Java and the `pycocoevalcap` package exist and work, otherwise an approximation;
    the log says so in that case, since scores then differ a little from published ones."""
    try:
        tokenize_stanford(["A trial."], _TRIAL_SECONDS)
    except (JarUnavailable, JarFailed) as problem:
        log.warning("captions are tokenized by an approximation of the PTB tokenizer: %s", problem)
        return Tokenizer("python-ptb-approximation", tokenize_approximately)
    return Tokenizer("stanford-ptb-3.4.1", tokenize_stanford)


def tokenize_stanford(texts: list[str], timeout: float = 600.0) -> list[str]:
    """Tokenizes with the Stanford PTBTokenizer 3.4.1.

    After an abbreviation at the end of a text the program looks at the next text, so the dot of "8th Ave." may
    stay or go; published scores contain this. Raises JarUnavailable, or JarFailed on a broken answer.
    """
    if not texts:
        return []
    program = "edu.stanford.nlp.process.PTBTokenizer"
    flags = ["-preserveLines", "-lowerCase", "-encoding", "UTF-8"]
    answer = run_java(["-cp", str(find_jar(_JAR)), program, *flags], [one_line(text) for text in texts], timeout)
    lines, rest = answer[: len(texts)], answer[len(texts) :]
    if len(lines) < len(texts) or any(rest):
        raise JarFailed(f"the PTB tokenizer answered {len(answer)} lines to {len(texts)} captions")
    return [_without_punctuation(line.rstrip().split(" ")) for line in lines]


def _without_punctuation(tokens: list[str]) -> str:
    return " ".join(token for token in tokens if token not in _DROPPED)


_RENAMED = {'"': "''", "(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_TWO_WORDS = re.compile(r"\b(?:(can)(not)|(gon|wan)(na)|(got)(ta)|(gim|lem)(me))\b")
_CLITIC = re.compile(r"(?<=\w)(n't|'(?:s|m|d|re|ve|ll))\b")
_TOKEN = re.compile(
    r"""n't\b | '(?:s|m|d|re|ve|ll)\b        # the second half of a contraction
    | (?:[^\W\d_]\.){2,}(?![^\W_])          # u.s.
    | (?:mr|mrs|ms|dr|st|ave|rd|blvd|ft|jr|sr|vs)\.  # abbreviations keep their dot
    | \d+(?:[.,:/]\d+)+                       # 1,000.5 and 5:30
    | [^\W_]+(?:[-_./'&][^\W_]+)*            # words, also t-shirt, o'clock, and/or, x.com
    | \.\.\. | -- | \S""",
    re.VERBOSE,
)


def tokenize_approximately(texts: list[str]) -> list[str]:
    """What `tokenize_stanford` does, without Java, up to rare abbreviations, fractions and web addresses."""
    return [_without_punctuation(_tokens(one_line(text).lower())) for text in texts]


def _tokens(text: str) -> list[str]:
    text = _TWO_WORDS.sub(lambda match: " ".join(filter(None, match.groups())), text.replace("’", "'"))
    found = _TOKEN.findall(_CLITIC.sub(r" \1", text))
    return [_RENAMED.get(token, token) for token in found if _is_kept(token[0])]


def _is_kept(character: str) -> bool:
    """Emoji, control characters and broken surrogates vanish, as they do in Stanford's tokenizer."""
    return character < "\U00010000" and category(character) not in ("Cc", "Cs", "Co")
