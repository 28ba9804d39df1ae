"""METEOR 1.5: the formula against recorded scores, the Java program against recorded counts."""

import json

import numpy as np
import pytest

from pixel_llm.metrics import meteor
from pixel_llm.metrics.jars import JarFailed, JarUnavailable, find_jar
from pixel_llm.metrics.meteor import meteor_score, meteor_statistics, sum_statistics

VARIANTS = ["METEOR", "METEOR_no_ptb"]


@pytest.fixture
def counts(scored) -> np.ndarray:
    return np.array(scored.want["METEOR"]["stats23"], dtype=float)


def test_formula_equals_recorded_scores(scored, counts):
    np.testing.assert_allclose(meteor_score(counts), scored.want["METEOR"]["per_item"], rtol=0, atol=1e-12)
    assert meteor_score(sum_statistics(counts)) == pytest.approx(scored.want["METEOR"]["corpus"], abs=1e-12)


def test_counts_add_up_over_any_split(counts):
    parts = np.array_split(counts, 3)  # some are empty for a single caption
    total = sum(sum_statistics(part) for part in parts)
    np.testing.assert_array_equal(total, sum_statistics(counts))


def test_nothing_matched_scores_zero():
    assert meteor_score(np.zeros(23)) == 0.0


def test_caption_without_reference():
    with pytest.raises(ValueError, match="'a dog' has no reference"):
        meteor_statistics(["a dog"], [[]])


def test_failure_on_long_texts_is_tried_again_with_shorter_ones(monkeypatch, caplog):
    asked = []

    def run_java(arguments, lines, timeout):
        asked.append(lines)
        if len(asked) == 1:
            raise JarFailed("out of memory")
        return [" ".join(["0"] * 23)] * len(lines)

    monkeypatch.setattr(meteor, "run_java", run_java)
    monkeypatch.setattr(meteor, "find_jar", lambda name: name)
    assert meteor_statistics(["dog " * 5000, "a dog"], [["cat"], ["a dog"]]).shape == (2, 23)
    assert asked[1] == ["SCORE ||| cat ||| " + " ".join(["dog"] * 500), "SCORE ||| a dog ||| a dog"]
    assert "first 500 words" in caplog.text


def test_broken_answer_is_an_error(monkeypatch):
    monkeypatch.setattr(meteor, "run_java", lambda *arguments: ["1 2 3"])
    monkeypatch.setattr(meteor, "find_jar", lambda name: name)
    with pytest.raises(JarFailed, match="1 lines of counts to 2 captions"):
        meteor_statistics(["a", "b"], [["a"], ["b"]])


ODD = [
    ("", ["a dog"], 0.0),
    ("a dog", [""], 0.0),
    ("", [""], 0.0),
    ("a dog\r\nruns\u2028here", ["a dog runs\vhere"], 1.0),
    ("a dog ||| runs", ["a dog runs"], 1.0),
    ("|||", ["|||"], 0.0),
    ("café 😀", ["café 😀"], 1.0),
    ("שלום עולם", ["שלום", "שלום עולם"], 1.0),
    ("\ud800 dog", ["? dog"], 1.0),
    ("the dog runs in the park " * 834, ["a dog runs"], pytest.approx(0.002, abs=0.002)),
    ("last one", ["last one"], 1.0),
]


@pytest.mark.slow
def test_program_gives_recorded_counts_and_survives_odd_texts(shared):
    """One process for everything, since starting it takes about 10 s."""
    try:
        find_jar("meteor/meteor-1.5.jar")
    except JarUnavailable as problem:
        pytest.skip(str(problem))
    items = json.loads((shared / "golden/metrics/captions_inputs.json").read_text())["items"]
    want = json.loads((shared / "golden/metrics/captions_expected.json").read_text())["all"]
    captions = [caption for (caption,) in want["tokenized_cand"]] + [item["cand"] for item in items]
    references = want["tokenized_refs"] + [item["refs"] for item in items]
    counts = meteor_statistics(captions + [caption for caption, _, _ in ODD], references + [own for _, own, _ in ODD])
    recorded = [row for variant in VARIANTS for row in want[variant]["stats23"]]
    np.testing.assert_array_equal(counts[: len(recorded)], recorded)
    assert meteor_score(counts[len(recorded) :]).tolist() == [score for _, _, score in ODD]
