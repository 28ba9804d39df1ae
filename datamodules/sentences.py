"""Cutting a narrative into sentences."""

import re

_END = re.compile(r"[.!?]+[\"')\]]*(?=\s|$)|[。！？]+")


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Character spans (begin, end) of the sentences, without blanks around them; all of a text without a full stop.

    A stretch without a letter or digit joins the sentence before it, at the beginning the one after it.
    """
    cuts = [match.end() for match in _END.finditer(text)] + [len(text)]
    spans: list[tuple[int, int]] = []
    begin = 0
    for end in cuts:
        part = text[begin:end]
        if any(c.isalnum() for c in part):
            spans.append((begin + len(part) - len(part.lstrip()), begin + len(part.rstrip())))
        elif not spans:
            continue
        elif part.strip():
            spans[-1] = (spans[-1][0], begin + len(part.rstrip()))
        begin = end
    if not spans and text.strip():
        stripped = text.strip()
        spans = [(text.index(stripped), text.index(stripped) + len(stripped))]
    return spans
