"""`pixel-llm score perbench`: descriptions, choices and masks that a system answered to the questions of PerBench."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datamodules.formats.masks import any_rle
from datamodules.formats.records import FormatError, RecordError, items, text
from datamodules.prepare.corpus import Corpus
from datamodules.prepare.perbench import open_perbench
from pixel_llm.metrics.perbench_scores import (
    PROTOCOLS,
    SEGMENTATION,
    Answer,
    Mode,
    Row,
    Truth,
    perbench_figures,
)
from pixel_llm.score_files import Line, check_once, named_splits, read_contents, read_lines
from pixel_llm.tables import figures_table


def score_perbench(file: Path, annotations: Sequence[Path], mode: Mode, out: Path | None) -> None:
    """Prints the table, and on the error stream how many questions have no prediction.

    Of the splits that the predictions name, the tasks that they name are scored, with all their questions.
    """
    lines = read_lines(file)
    check_once(file, lines)
    truths = read_truths(annotations, named_splits(file, ((line.key, line.number) for line in lines)))
    answers = read_answers(file, lines, truths)
    tasks = {_task_of(key) for key in answers}
    rows: dict[str, list[Row]] = {}
    silent: dict[str, int] = {}
    for key, truth in truths.items():
        if _task_of(key) in tasks:
            rows.setdefault(key.partition("/")[0], []).append((truth, answers.get(key, Answer())))
            silent[_task_of(key)] = silent.get(_task_of(key), 0) + (key not in answers)
    for task, count in silent.items():
        if count:
            sys.stderr.write(f"{task}: {count:,} questions without a prediction, counted as nothing answered\n")
    scores = {split: perbench_figures(own, mode) for split, own in rows.items()}
    sys.stdout.write(f"{figures_table(scores, f'protocol: {PROTOCOLS[mode]}')}\n")
    if out:
        out.write_text(json.dumps({"protocol": PROTOCOLS[mode], "scores": scores}, indent=1) + "\n")


def read_truths(paths: Sequence[Path], named: Mapping[str, str]) -> dict[str, Truth]:
    """The questions of the named splits by their keys SPLIT/TASK/NUMBER.

    paths: folders of shards, folders of such folders, and folders of the three files.
    Raises ShardError or FormatError for what is none of these, for a split that they do not hold, and where two
    questions have the same key.
    """
    truths: dict[str, Truth] = {}
    for split, _, content in read_contents(paths, named, ("perbench",), _open_raw, "questions"):
        key = f"{split}/{content['image_id']}"
        if key in truths:
            raise FormatError(f"the annotations have two questions {key!r}")
        targets = [content["regions"][index]["rle"] for index in content["targets"]]
        truths[key] = Truth(content["task"], content["answer"], content["options"], targets)
    return truths


def read_answers(file: Path, lines: Sequence[Line], truths: Mapping[str, Truth]) -> dict[str, Answer]:
    """What was answered to each question that has a line.

    Raises FormatError, naming the line, for an unknown question and for what is no answer to one of its task.
    """
    answers = {}
    for line in lines:
        try:
            if line.key not in truths:
                raise RecordError(f"the annotations have no question {line.key!r}")
            answers[line.key] = _answer(line.record, truths[line.key])
        except RecordError as error:
            raise FormatError(f"{file}:{line.number}: {error}") from None
    return answers


def _answer(record: dict[str, Any], truth: Truth) -> Answer:
    if truth.task != SEGMENTATION:
        return Answer(text(record, "answer"))
    height, width = truth.targets[0]["size"]
    masks = [any_rle(mask, height, width) for mask in items(record, "masks")]
    forced = items(record, "forced_masks") if record.get("forced_masks") is not None else []
    return Answer(masks=masks, forced_masks=[any_rle(mask, height, width) for mask in forced])


def _task_of(key: str) -> str:
    """The split and the task of a key."""
    return key.rpartition("/")[0]


def _open_raw(paths: list[Path]) -> list[Corpus]:
    for path in paths:
        if not path.is_dir():
            raise FormatError(f"{path}: neither a folder of shards nor one of PerBench's files")
    return [open_perbench(path) for path in paths]
