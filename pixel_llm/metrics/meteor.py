"""METEOR 1.5 (Denkowski & Lavie 2014): counted by the authors' Java program or in Python, scored here.

A caption yields 23 counts, which add up over captions; the score of a set is the formula on the summed counts.
"""

import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pixel_llm.metrics.jars import JarFailed, JarUnavailable, find_jar, one_line, run_java

STATISTICS = 23  # lengths (2), function words (2), matches of 4 modules x (content, function) x 2 sides, 3 more
_JAR = "meteor/meteor-1.5.jar"
_SEPARATOR = "|||"
_START_SECONDS = 180.0  # ten times what a busy machine needs
_LONGEST = 500  # words, only after a failure

# The parameters of task "rank" in English.
_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.20, 0.60, 0.75
_MODULE_WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])  # exact, stem, synonym, paraphrase
_CHUNKS = 20

Statistics = NDArray[np.float64]

log = logging.getLogger(__name__)


def count_meteor(captions: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[str, Statistics]:
    """The counts by the program or, with a warning, in Python where Java is missing, fails or does not answer; with
    the name to report them under: `meteor` or `meteor_python`.

    Raises ValueError as both do, JarUnavailable where the `captions` extra is not installed.
    """
    try:
        return "meteor", meteor_statistics(captions, references)
    except (JarUnavailable, JarFailed) as problem:
        counts = python_meteor_statistics(captions, references)
        log.warning("METEOR is counted in Python and called meteor_python: %s", problem)
        return "meteor_python", counts


def python_meteor_statistics(captions: Sequence[str], references: Sequence[Sequence[str]]) -> Statistics:
    """What `meteor_statistics` returns, without Java: about 2 s per 1,000 captions with 4 references each.

    Raises ValueError where a caption has no reference, JarUnavailable where the `captions` extra is not installed.
    """
    try:
        from pixel_llm.metrics.meteor_python.counts import meteor_counts
    except ModuleNotFoundError as problem:
        raise JarUnavailable(f"{problem.name} is not installed: pip install 'pixel-llm[captions]'") from None
    requests = [_request(caption, own) for caption, own in zip(captions, references, strict=True)]
    if not requests:
        return np.zeros((0, STATISTICS))
    counts = meteor_counts([(caption, reference) for *own, caption in requests for reference in own])
    per_caption = np.split(counts, np.cumsum([len(own) for own in references])[:-1])
    return np.stack([own[meteor_score(own).argmax()] for own in per_caption])


def meteor_statistics(
    captions: Sequence[str], references: Sequence[Sequence[str]], timeout: float | None = None
) -> Statistics:
    """The program's counts for each caption against the reference that scores best.

    The text is normalised by the program (`-norm`); the separator ||| of its protocol is cut out of it. One
    process per call, about 10 s to start and 2 s per 1,000 captions with 4 references each, 1 GB of memory.
    Should it fail, texts of over 500 words are cut there, with a warning, and it is asked once more: the
    program can run out of memory on captions of thousands of words that repeat themselves.

    Returns float64[captions, 23]. Raises ValueError where a caption has no reference, JarUnavailable where Java
    or the `pycocoevalcap` package is missing, JarFailed where the program fails or takes over `timeout` seconds,
    by default 3 minutes and 0.1 s per caption.
    """
    timeout = timeout or _START_SECONDS + 0.1 * len(captions)
    requests = [_request(caption, own) for caption, own in zip(captions, references, strict=True)]
    try:
        return _ask(requests, timeout)
    except JarFailed as problem:
        shortened = [_shorten(request) for request in requests]
        if shortened == requests:
            raise
        log.warning("METEOR reads the first %d words of longer texts: %s", _LONGEST, problem)
        return _ask(shortened, timeout)


def sum_statistics(statistics: Statistics) -> Statistics:
    """Adds up counts: float64[n, 23] to float64[23]. A caption that matches fully in one chunk adds no chunk."""
    counts = statistics.copy()
    counts[_is_perfect(counts), _CHUNKS] = 0.0
    return np.asarray(counts.sum(axis=0))


def meteor_score(statistics: Statistics) -> NDArray[np.float64]:
    """The METEOR 1.5 formula on counts of captions or on sums of them: float64[..., 23] to float64[...] in [0, 1]."""
    lengths, function_words = statistics[..., 0:2], statistics[..., 2:4]
    modules = statistics[..., 4:_CHUNKS].reshape(*statistics.shape[:-1], 4, 4)
    content, function = modules[..., 0:2], modules[..., 2:4]
    matched = _MODULE_WEIGHTS @ (_DELTA * content + (1 - _DELTA) * function)
    possible = _DELTA * (lengths - function_words) + (1 - _DELTA) * function_words
    chunks = np.where(_is_perfect(statistics), 0.0, statistics[..., _CHUNKS])
    with np.errstate(divide="ignore", invalid="ignore"):
        precision, recall = np.moveaxis(matched / possible, -1, 0)
        mean = 1 / ((1 - _ALPHA) / precision + _ALPHA / recall)
        fragmentation = chunks / statistics[..., _CHUNKS + 1 :].mean(axis=-1)
        score = mean * (1 - _GAMMA * fragmentation**_BETA)
    return np.nan_to_num(score, nan=0.0)


def _request(caption: str, references: Sequence[str]) -> list[str]:
    """References and caption, as the program's protocol can take them."""
    if not references:
        raise ValueError(f"caption {caption[:60]!r} has no reference")
    readable = [text.encode(errors="replace").decode() for text in (*references, caption)]
    return [one_line(text).replace(_SEPARATOR, "") for text in readable]


def _shorten(texts: list[str]) -> list[str]:
    return [text if len(text.split()) <= _LONGEST else " ".join(text.split()[:_LONGEST]) for text in texts]


def _ask(requests: list[list[str]], timeout: float) -> Statistics:
    """Runs the program over requests, each being references and a caption: float64[requests, 23]."""
    if not requests:
        return np.zeros((0, STATISTICS))
    arguments = ["-jar", str(find_jar(_JAR)), "-", "-", "-stdio", "-l", "en", "-norm"]
    lines = [f" {_SEPARATOR} ".join(["SCORE", *texts]) for texts in requests]
    answer = [line.split() for line in run_java(arguments, lines, timeout) if line]
    if len(answer) != len(requests) or any(len(counts) != STATISTICS for counts in answer):
        raise JarFailed(f"METEOR answered {len(answer)} lines of counts to {len(requests)} captions")
    return np.array(answer, dtype=np.float64)


def _is_perfect(statistics: Statistics) -> NDArray[np.bool_]:
    """Every word matched, in one chunk: word order leaves nothing to punish."""
    complete = (statistics[..., _CHUNKS + 1 :] == statistics[..., 0:2]).all(axis=-1)
    return np.asarray(complete & (statistics[..., _CHUNKS] == 1))
