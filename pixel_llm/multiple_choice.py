"""Questions with their options in the text, "What colour is it? A. red B. blue", and answers that name one of them."""

import re
from collections.abc import Sequence

_LABEL = re.compile(r"(?<!\S)\(?([A-Z])[.):]\s*")
_LEAD = re.compile(r"(?:the\s+)?(?:(?:correct|right)\s+)?(?:answer|option|choice)(?:\s+is)?\s*:?\s*")
_NAMED = re.compile(r"\(?(?P<letter>[a-z])(?:[.):]+|(?=\s)|$)\s*(?P<words>.*)", re.DOTALL)
_SUBJECT = re.compile(r"\s*<Prompt\d+>\s*:\s*")


def without_subject(said: str) -> str:
    """A text about a region without the region's name before it: "<Prompt0>: a dog" is "a dog"."""
    return _SUBJECT.sub("", said, count=1) if _SUBJECT.match(said) else said


def options_of(question: str) -> tuple[str, ...]:
    """The words of the options A, B, C ... in a question; none where it does not have two that are marked so.

    A mark is the letter with ".", ")" or ":" behind it, or in brackets, at the beginning or after a blank.
    """
    marks: list[re.Match[str]] = []
    for mark in _LABEL.finditer(question):
        if mark[1] == chr(ord("A") + len(marks)):
            marks.append(mark)
        elif mark[1] == "A" and len(marks) == 1:
            marks = [mark]  # the one before was none
    if len(marks) < 2:
        return ()
    ends = [*(mark.start() for mark in marks[1:]), len(question)]
    return tuple(question[mark.end() : end].strip(" \t\r\n,;.") for mark, end in zip(marks, ends, strict=True))


def chosen(said: str, options: Sequence[str]) -> int | None:
    """The index of the option that a text names: by its words, its letter, or both, and by nothing else.

    Case, blanks and a final stop do not matter, nor do a region's name and "The answer is" before it. A text that lists
    several options, explains, or gives a letter with the words of another option, names none.
    """
    plain = _plain(without_subject(said))
    wanted = [_plain(option) for option in options]
    for text in (plain, _LEAD.sub("", plain, count=1) if _LEAD.match(plain) else plain):
        if text in wanted:
            return wanted.index(text)
        named = _NAMED.fullmatch(text)
        index = ord(named["letter"]) - ord("a") if named else len(wanted)
        if named and index < len(wanted) and named["words"] in ("", wanted[index]):
            return index
    return None


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(" .")
