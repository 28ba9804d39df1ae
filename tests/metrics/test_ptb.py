"""PTB tokens: Stanford's program against recorded tokens, the approximation against Stanford's."""

import json
import logging

import pytest

from pixel_llm.metrics import ptb
from pixel_llm.metrics.jars import JarFailed, JarUnavailable, find_jar


@pytest.fixture
def stanford():
    try:
        find_jar("tokenizer/stanford-corenlp-3.4.1.jar")
    except JarUnavailable as problem:
        pytest.skip(str(problem))
    return ptb.tokenize_stanford


@pytest.fixture
def recorded(shared) -> tuple[list[str], list[str]]:
    """Candidate captions and their tokens."""
    large = json.loads((shared / "golden/metrics/captions_large.json").read_text())
    tokens = [caption for (caption,) in large["expected"]["tokenized_cand"]]
    return [item["cand"] for item in large["items"]], tokens


def test_stanford_equals_recorded_tokens(stanford, recorded):
    texts, tokens = recorded
    assert stanford(texts) == tokens


def test_approximation_is_nearly_always_the_same(shared):
    large = json.loads((shared / "golden/metrics/captions_large.json").read_text())
    texts = [text for item in large["items"] for text in item["refs"]]
    tokens = [text for references in large["expected"]["tokenized_refs"] for text in references]
    differing = sum(a != b for a, b in zip(ptb.tokenize_approximately(texts), tokens, strict=True))
    assert differing / len(texts) < 0.001


ODD = {
    "": "",
    "   ": "",
    "A dog\nruns\r\nhere\u2028now\x0b!": "a dog runs here now",
    "He can't; she's gonna (maybe) say \"it\"...": "he ca n't she 's gon na -lrb- maybe -rrb- say it",
    "a dog 😀👍🏽 runs": "a dog runs",
    "a ||| b|c": "a | | | b | c",
    "שלום עולם": "שלום עולם",
    "\ud800 broken \x00 text": "broken text",
    "word " * 5000: " ".join(["word"] * 5000),
    "last": "last",
}


@pytest.mark.parametrize("which", ["stanford", "approximation"])
def test_odd_texts_keep_their_lines(which, request):
    tokenize = request.getfixturevalue("stanford") if which == "stanford" else ptb.tokenize_approximately
    assert tokenize(list(ODD)) == list(ODD.values())


def test_without_java_the_approximation_is_named_and_logged(monkeypatch, caplog):
    monkeypatch.setenv("PATH", "")
    with caplog.at_level(logging.WARNING):
        tokenizer = ptb.ptb_tokenizer()
    assert tokenizer.name == "python-ptb-approximation"
    assert "no `java` on the PATH" in caplog.text


def test_shifted_lines_are_an_error(monkeypatch):
    monkeypatch.setattr(ptb, "find_jar", lambda name: name)
    monkeypatch.setattr(ptb, "run_java", lambda *arguments: ["a", "b", "c", ""])
    with pytest.raises(JarFailed, match="2 captions"):
        ptb.tokenize_stanford(["a b", "c"])
