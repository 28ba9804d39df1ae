"""How METEOR 1.5 splits a text into words (its `-norm`, English, punctuation kept)."""

import re
from string import ascii_lowercase, digits

from pixel_llm.metrics.jars import one_line
from pixel_llm.metrics.meteor_python.resources import read_lines

_CYRILLIC = "\u0400-\u0527\ua640-\ua66e\ua67e-\ua697"
_ALPHA = f"A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u017e{_CYRILLIC}\u1d00-\u1d7f"
_DOT = "\v"  # stands for a dot of a run of dots; texts hold none, since it would break the line

# In this order; the patterns take their neighbours with them, so that of two marks in a row one may stay.
_RULES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\t", " "),
        (rf"([^{_ALPHA}0-9 .'`,\-‘’])", r" \1 "),
        (r"\.{2,}", lambda dots: f" {_DOT * len(dots[0])} "),
        (r"([^0-9]),([^0-9])", r"\1 , \2"),
        (r"([0-9]),([^0-9])", r"\1 , \2"),
        (r"([^0-9]),([0-9])", r"\1 , \2"),
        (r"[`‘’]", "'"),
        (r"[“”]|''", ' " '),
        (r"–|--", "-"),
        (rf"([{_ALPHA}0-9.])-([{_ALPHA}0-9])", r"\1 \2"),
        (rf"([^{_ALPHA}])'([^{_ALPHA}])", r"\1 ' \2"),
        (rf"([^{_ALPHA}0-9])'([{_ALPHA}])", r"\1 ' \2"),
        (rf"([{_ALPHA}])'([^{_ALPHA}])", r"\1 ' \2"),
        (rf"([{_ALPHA}])'([{_ALPHA}])", r"\1 '\2"),
        (r"([0-9])'(s)", r"\1 '\2"),
    )
]
_SPACES = re.compile("[\u00a0\u2000-\u200a\u202f\u205f\u3000]")  # other than the usual one: words, but dropped
_TRIMMED = "".join(map(chr, range(33)))  # at both ends of a text
_LETTER = re.compile(f"[{_ALPHA}]")
_LOWER, _DIGITS = frozenset(ascii_lowercase), frozenset(digits)
_NUMERIC = " #NUMERIC_ONLY#"


class Normalizer:
    """Splits texts as the program does; the abbreviations that keep their dot come with the program."""

    def __init__(self) -> None:
        listed = {line.strip() for line in read_lines("nonbreaking/english.prefixes") if not line.startswith("#")}
        self._before_digits = {line.removesuffix(_NUMERIC) for line in listed if line.endswith(_NUMERIC)}
        self._always = {line for line in listed if not line.endswith(_NUMERIC)}

    def words(self, text: str) -> list[str]:
        """The words and punctuation marks of a text, in lower case."""
        text = f" {one_line(text)} "
        for pattern, replacement in _RULES:
            text = pattern.sub(replacement, text)
        words = [word for word in text.split(" ") if word]
        split = " ".join(map(self._final_dot, words, [*words[1:], ""]))
        split = _SPACES.sub("", split).replace(_DOT, ".").strip(_TRIMMED)
        return [word for word in split.lower().split(" ") if word]

    def _final_dot(self, word: str, following: str) -> str:
        """The word with its final dot kept, split off, or gone with the dots inside (U.S. is US)."""
        if len(word) < 2 or not word.endswith("."):
            return word
        stem = word[:-1]
        if "." in stem and _LETTER.search(stem):
            return word.replace(".", "")
        if stem in self._always or following[:1] in _LOWER:
            return word
        if stem in self._before_digits and following[:1] in _DIGITS:
            return word
        return f"{stem} ."
