"""Caption metrics of a data set: against the reference numbers, rows by sample, what happens without Java."""

import json
import logging
from importlib.util import find_spec

import pytest

from pixel_llm.metrics import captions, jars
from pixel_llm.metrics.captions import CaptionMetrics
from pixel_llm.metrics.jars import JarUnavailable, find_jar
from pixel_llm.metrics.meteor_python import counts
from pixel_llm.metrics.meteor_python.matches import Matcher

KEYS = ["a", "b", "c"]
CAPTIONS = ["A dog runs.", "", "two cats 😀 sleep"]
REFERENCES = [["a dog runs fast"], ["the sky"], ["two cats sleep", "cats"]]
PARTS = {"bleu1", "bleu2", "bleu3", "bleu4", "rouge_l", "cider"}


@pytest.fixture
def without_java(monkeypatch):
    monkeypatch.setenv("PATH", "")


@pytest.mark.slow
def test_equals_the_reference_implementation(shared):
    try:
        find_jar("meteor/meteor-1.5.jar")
    except JarUnavailable as problem:
        pytest.skip(str(problem))
    items = json.loads((shared / "golden/metrics/captions_inputs.json").read_text())["items"]
    want = json.loads((shared / "golden/metrics/captions_expected.json").read_text())["all"]
    metric = CaptionMetrics()
    for start in range(0, len(items), 50):  # keys keep the recorded order when they are sorted
        part = items[start : start + 50]
        keys = [f"{start + index:04d}" for index in range(len(part))]
        metric.update(keys, [item["cand"] for item in part], [item["refs"] for item in part])
    scores = metric.compute()
    expected = {f"bleu{order + 1}": value for order, value in enumerate(want["BLEU"]["corpus"])}
    for name, key in (("rouge_l", "ROUGE_L"), ("cider", "CIDEr"), ("meteor", "METEOR")):
        expected[name] = want[key]["corpus"]
    assert scores == pytest.approx(expected, abs=1e-9)


@pytest.mark.skipif(find_spec("pycocoevalcap") is None, reason="the captions extra is not installed")
def test_without_java_meteor_is_counted_in_python_and_its_name_says_so(without_java, caplog):
    metric = CaptionMetrics()
    metric.update(KEYS, CAPTIONS, REFERENCES)
    with caplog.at_level(logging.WARNING):
        scores = metric.compute()
    assert set(scores) == {*PARTS, "meteor_python"}
    assert 0 < scores["meteor_python"] < 1
    assert "meteor_python: no `java` on the PATH" in caplog.text


def test_without_the_package_meteor_is_absent_and_one_line_says_why(monkeypatch, caplog):
    monkeypatch.setattr(jars, "find_spec", lambda name: None)
    monkeypatch.setattr(counts, "_matcher", Matcher)  # without what was read before
    metric = CaptionMetrics()
    metric.update(KEYS, CAPTIONS, REFERENCES)
    with caplog.at_level(logging.WARNING):
        scores = metric.compute()
    assert set(scores) == PARTS
    assert [record.message for record in caplog.records if "METEOR" in record.message] == [
        "METEOR is left out: pycocoevalcap is not installed: pip install 'pixel-llm[captions]'"
    ]


def test_java_that_does_not_work_is_no_java(monkeypatch, tmp_path, caplog):
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\necho 'no Java runtime present' >&2\nexit 1\n")
    java.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    metric = CaptionMetrics()
    metric.update(KEYS, CAPTIONS, REFERENCES)
    assert PARTS <= set(metric.compute()) <= {*PARTS, "meteor_python"}
    assert len([record for record in caplog.records if "no Java runtime present" in record.message]) == 2


def test_sample_seen_twice_counts_once_and_order_does_not_matter(without_java):
    once, twice = CaptionMetrics(), CaptionMetrics()
    once.update(KEYS, CAPTIONS, REFERENCES)
    for index in (2, 0, 1, 0):
        twice(KEYS[index : index + 1], CAPTIONS[index : index + 1], REFERENCES[index : index + 1])
    assert once.compute() == twice.compute()


def test_reset_forgets_everything(without_java):
    metric = CaptionMetrics()
    metric.update(KEYS, CAPTIONS, REFERENCES)
    assert metric.compute()
    metric.reset()
    with pytest.warns(UserWarning, match="before"):
        assert metric.compute() == {}


def test_sample_without_reference_is_named():
    with pytest.raises(ValueError, match="sample 'b' has no reference"):
        CaptionMetrics().update(["a", "b"], ["x", "y"], [["x"], []])


def test_scores_are_computed_from_tokens_grouped_by_sample(without_java, monkeypatch):
    seen = {}

    def cider(texts, references):
        seen.update(zip(texts, references, strict=True))
        return [0.0]

    monkeypatch.setattr(captions, "cider", cider)
    metric = CaptionMetrics()
    metric.update(KEYS, CAPTIONS, REFERENCES)
    metric.compute()
    assert seen == {"a dog runs": ["a dog runs fast"], "": ["the sky"], "two cats sleep": ["two cats sleep", "cats"]}
