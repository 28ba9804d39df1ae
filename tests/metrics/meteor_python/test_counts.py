"""METEOR in Python: its counts against the program's, recorded and live; what holds for any captions."""

import json
from importlib.util import find_spec

import numpy as np
import pytest

from pixel_llm.metrics import meteor
from pixel_llm.metrics.jars import JarFailed, JarUnavailable
from pixel_llm.metrics.meteor import count_meteor, meteor_score, meteor_statistics, python_meteor_statistics

pytestmark = pytest.mark.skipif(find_spec("pycocoevalcap") is None, reason="the captions extra is not installed")


def test_equals_recorded_counts(scored, shared):
    items = {i["id"]: i for i in json.loads((shared / "golden/metrics/captions_inputs.json").read_text())["items"]}
    items = [items[key] for key in scored.want["ids"]]
    raw = [item["cand"] for item in items], [_cut_at_bars(item["refs"]) for item in items]
    for name, (captions, references) in {"METEOR": (scored.captions, scored.references), "METEOR_no_ptb": raw}.items():
        counts = python_meteor_statistics(captions, references)
        np.testing.assert_array_equal(counts, scored.want[name]["stats23"])


def _cut_at_bars(references: list[str]) -> list[str]:
    """The recorded wrapper lets ||| cut a reference into two."""
    return [part for reference in references for part in reference.split("|||")]


@pytest.mark.slow
def test_equals_recorded_counts_of_many_captions(shared):
    want = json.loads((shared / "golden/metrics/captions_large.json").read_text())["expected"]
    captions = [caption for (caption,) in want["tokenized_cand"]]
    counts = python_meteor_statistics(captions, want["tokenized_refs"])
    np.testing.assert_array_equal(counts, want["METEOR"]["stats23"])


WORDS = """
    a the of in on next to dog dogs big large small sitting sits sat man men woman people person room area kitchen
    bus car vehicle driving drives running ran child children kid two 2 couple white U.S. t-shirt 's isn't , . !
    front in front of a lot of many looking at going to grass field skies sky bicycle bike photo picture image
"""


@pytest.mark.slow
def test_equals_the_program_on_random_texts():
    """Words that match in many ways and repeat themselves, which makes the order of the search matter."""
    generator = np.random.default_rng(0)

    def text() -> str:
        return " ".join(generator.choice(WORDS.split(), generator.integers(1, 25)))

    captions, references = [text() for _ in range(600)], [[text() for _ in range(2)] for _ in range(600)]
    try:
        want = meteor_statistics(captions, references)
    except JarUnavailable as problem:
        pytest.skip(str(problem))
    np.testing.assert_array_equal(python_meteor_statistics(captions, references), want)


ODD = {
    ("", "a dog"): 0.0,
    ("a dog", ""): 0.0,
    ("", ""): 0.0,
    ("a dog\r\nruns\u2028here", "a dog runs\vhere"): 1.0,
    ("a dog ||| runs", "a dog runs"): 1.0,
    ("|||", "|||"): 0.0,
    ("café 😀", "café 😀"): 1.0,
    ("שלום עולם", "שלום עולם"): 1.0,
    ("\ud800 dog", "? dog"): 1.0,
    ("the U.S. flag", "the US flag"): 1.0,
    ("A t-shirt", "a t shirt"): 1.0,
    ("the dog runs in the park " * 834, "a dog runs"): pytest.approx(0.002, abs=0.002),
    ("nothing alike", "some other words"): 0.0,
}


def test_odd_texts():
    counts = python_meteor_statistics([caption for caption, _ in ODD], [[reference] for _, reference in ODD])
    assert meteor_score(counts).tolist() == list(ODD.values())


def test_order_form_and_meaning_count():
    reference = "the big dog sits on the grass"
    synonym, inflected = "the large dog sits on the grass", "the big dogs sit on the grass"
    captions = [reference, synonym, inflected, "grass the on sits dog big the"]
    scores = meteor_score(python_meteor_statistics(captions, [[reference]] * 4))
    assert scores[0] == 1.0
    assert (np.diff(scores) < 0).all()


def test_the_better_reference_counts_whatever_the_order():
    references = ["a cat", "a dog runs fast", "the sky"]
    counts = python_meteor_statistics(["a dog runs"] * 2, [references, references[::-1]])
    np.testing.assert_array_equal(*counts)
    np.testing.assert_array_equal(counts[0], python_meteor_statistics(["a dog runs"], [references[1:2]])[0])


def test_no_captions():
    assert python_meteor_statistics([], []).shape == (0, 23)


def test_caption_without_reference():
    with pytest.raises(ValueError, match="'a dog' has no reference"):
        python_meteor_statistics(["a dog"], [[]])


@pytest.mark.parametrize("problem", [JarUnavailable("no java"), JarFailed("java took longer than 180 s")])
def test_stands_in_where_the_program_cannot_and_says_so(problem, monkeypatch, caplog):
    def fail(*arguments):
        raise problem

    monkeypatch.setattr(meteor, "meteor_statistics", fail)
    name, counts = count_meteor(["a dog"], [["a dog"]])
    assert name == "meteor_python"
    assert meteor_score(counts).tolist() == [1.0]
    assert str(problem) in caplog.text


def test_a_program_that_never_answers_is_left_in_bounded_time(monkeypatch, tmp_path):
    java = tmp_path / "java"
    java.write_text('#!/bin/sh\n[ "$1" = -version ] || exec sleep 60\n')
    java.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(meteor, "_START_SECONDS", 0.2)
    assert count_meteor(["a dog"], [["a dog"]])[0] == "meteor_python"
