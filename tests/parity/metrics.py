"""Compares the metrics with numbers of the reference implementations: `python -m tests.parity.metrics FOLDER`."""

import argparse
import json
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pixel_llm.metrics.bleu import bleu
from pixel_llm.metrics.cider import cider
from pixel_llm.metrics.jars import JarUnavailable
from pixel_llm.metrics.lbm import LocalBipartiteMatching, local_bipartite_matching
from pixel_llm.metrics.meteor import (
    Statistics,
    meteor_score,
    meteor_statistics,
    python_meteor_statistics,
    sum_statistics,
)
from pixel_llm.metrics.point_l1 import PointL1, point_l1
from pixel_llm.metrics.ptb import tokenize_stanford
from pixel_llm.metrics.rouge import rouge_l
from tests.parity.referring_metrics import compare_referring_boxes, compare_referring_masks
from tests.parity.region_metrics import compare_densecap, compare_region_captions
from tests.parity.report import Report

TOLERANCES = (
    "tolerances: traces and referring 1e-6, dense captioning 1e-5, captions 1e-9, METEOR counts, tokens and pixels "
    "exact, LAVT as printed; relative to an output's scale"
)
TRACE, CAPTION, EXACT = 1e-6, 1e-9, 0.0

Block = tuple[str, list[dict[str, Any]], dict[str, Any]]  # name, items, expected numbers


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="inputs and expected numbers of the reference implementations")
    report = compare(parser.parse_args().folder)
    report.print()
    return report.exit_code


def compare(folder: Path) -> Report:
    """Compares everything in the folder that is built; what is not built yet is listed."""
    report = Report(TOLERANCES)
    covered: dict[Callable[[Report, Path], None], list[str]] = {
        compare_lbm: ["lbm_inputs.npz", "lbm_expected.json"],
        compare_point_l1: ["point_l1.json"],
        compare_captions: ["captions_inputs.json", "captions_expected.json", "captions_large.json"],
        compare_referring_boxes: ["refer_boxes_inputs.json", "refer_expected.json"],
        compare_referring_masks: ["refer_masks_inputs.npz", "refer_expected.json"],
        compare_densecap: ["densecap_inputs.json", "densecap_edge_inputs.json", "densecap_expected.json"],
        compare_region_captions: ["region_captions.json", "densecap_inputs.json"],
    }
    for comparison, files in covered.items():
        name = comparison.__name__.removeprefix("compare_")
        missing = [file for file in files if not (folder / file).is_file()]
        if missing:
            report.fail(name, "", f"{folder} has no {', '.join(missing)}")
            continue
        try:
            comparison(report, folder)
        except Exception as error:
            logging.exception(name)
            report.fail(name, "", f"{type(error).__name__}: {error}")
    known = {file for files in covered.values() for file in files}
    for file in sorted(folder.iterdir()):
        if file.suffix in (".json", ".npz") and file.name not in known:
            report.skip(file.name)
    return report


def compare_lbm(report: Report, folder: Path) -> None:
    expected = json.loads((folder / "lbm_expected.json").read_text())
    with np.load(folder / "lbm_inputs.npz") as inputs:
        for task in (name for name, value in expected.items() if isinstance(value, dict)):
            truth = [_without_untraced(rows) for rows in _ragged(inputs[f"{task}_gt"], inputs[f"{task}_gt_len"])]
            predicted = _ragged(inputs[f"{task}_pred"], inputs[f"{task}_pred_len"])
            for window, want in expected[task].items():
                k = int(window.removeprefix("k"))
                values = [local_bipartite_matching(*pair, k) for pair in zip(predicted, truth, strict=True)]
                report.check(f"lbm {task} {window}", "per sample", _nan(values), _nan(want["per_sample"]), TRACE)
                metric = LocalBipartiteMatching(k)
                metric.update(predicted, truth)
                report.check(f"lbm {task} {window}", "mean", metric.compute(), want["mean_over_samples"], TRACE)


def compare_point_l1(report: Report, folder: Path) -> None:
    golden = json.loads((folder / "point_l1.json").read_text())
    metric, values = PointL1(), []
    for sample in golden["inputs"]:
        extent = torch.tensor(sample["size_hw"]).flip(0)
        truth, predicted = (torch.tensor(sample[name], dtype=torch.float64) for name in ("points", "pred"))
        located = torch.tensor(sample["token_mask"]).bool() & (truth.flatten(2).amax(dim=-1) > 0)
        if predicted.ndim == 3:  # one point per token
            predicted = predicted.unsqueeze(2)
        # The captions of an image count together: their tokens become those of one caption.
        arguments = [value.flatten(0, 1).unsqueeze(0) for value in (predicted / extent, truth / extent, located)]
        metric.update(*arguments)
        values.append(point_l1(*arguments))
    report.check("point_l1", "mean", metric.compute(), golden["expected"]["point_l1"], TRACE)
    report.check("point_l1", "per sample", torch.cat(values), golden["expected"]["per_sample"], TRACE)


def compare_captions(report: Report, folder: Path) -> None:
    items = {item["id"]: item for item in json.loads((folder / "captions_inputs.json").read_text())["items"]}
    expected = json.loads((folder / "captions_expected.json").read_text())
    large = json.loads((folder / "captions_large.json").read_text())
    blocks: list[Block] = [
        (name, [items[key] for key in want["ids"]], want) for name, want in expected.items() if "ids" in want
    ]
    blocks.append(("large", large["items"], large["expected"]))
    try:
        _check_meteor(report, blocks, python_meteor_statistics, "METEOR_python")
        tokenized = [_tokenize(block_items) for _, block_items, _ in blocks]
    except JarUnavailable as problem:
        report.skip("captions", str(problem))
        return
    for (name, _, want), (captions, references) in zip(blocks, tokenized, strict=True):
        _check_tokens(report, name, captions, references, want)
        _check_scores(report, name, captions, references, want)
    _check_meteor(report, blocks, meteor_statistics, "METEOR")


def _check_tokens(
    report: Report, name: str, captions: list[str], references: list[list[str]], want: dict[str, Any]
) -> None:
    differing = sum(a != b for a, (b,) in zip(captions, want["tokenized_cand"], strict=True))
    differing += sum(a != b for a, b in zip(references, want["tokenized_refs"], strict=True))
    report.check(f"captions {name}", "captions tokenized differently", differing, 0, EXACT)


def _check_scores(
    report: Report, name: str, captions: list[str], references: list[list[str]], want: dict[str, Any]
) -> None:
    component = f"captions {name}"
    single = [bleu([caption], [own]) for caption, own in zip(captions, references, strict=True)]
    report.check(component, "BLEU corpus", bleu(captions, references), want["BLEU"]["corpus"], CAPTION)
    report.check(component, "BLEU per item", np.transpose(single), want["BLEU"]["per_item"], CAPTION)
    for metric, values in (
        ("ROUGE_L", list(map(rouge_l, captions, references))),
        ("CIDEr", cider(captions, references)),
    ):
        report.check(component, f"{metric} corpus", np.mean(values), want[metric]["corpus"], CAPTION)
        report.check(component, f"{metric} per item", values, want[metric]["per_item"], CAPTION)


def _check_meteor(
    report: Report,
    blocks: list[Block],
    count: Callable[[Sequence[str], Sequence[Sequence[str]]], Statistics],
    label: str,
) -> None:
    """Recorded tokens and raw texts of all blocks are counted together: the Java program takes long to start."""
    captions: list[str] = []
    references: list[list[str]] = []
    for _, items, want in blocks:
        captions += [*(tokens for (tokens,) in want["tokenized_cand"]), *(item["cand"] for item in items)]
        references += [*want["tokenized_refs"], *(_as_the_wrapper_sends(item["refs"]) for item in items)]
    sizes = [len(items) for _, items, _ in blocks for _ in range(2)]
    parts = iter(np.split(count(captions, references), np.cumsum(sizes)[:-1]))
    for name, _, want in blocks:
        for metric in ("METEOR", "METEOR_no_ptb"):
            counts, numbers = next(parts), want[metric]
            component, metric = f"captions {name}", metric.replace("METEOR", label)
            report.check(component, f"{metric} counts", counts, numbers["stats23"], EXACT)
            report.check(component, f"{metric} per item", meteor_score(counts), numbers["per_item"], CAPTION)
            report.check(
                component, f"{metric} corpus", meteor_score(sum_statistics(counts)), numbers["corpus"], CAPTION
            )


def _as_the_wrapper_sends(references: list[str]) -> list[str]:
    """The reference wrapper lets a ||| inside a reference cut it into two references; ours takes it out."""
    return [part for reference in references for part in reference.split("|||")]


def _tokenize(items: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    references = tokenize_stanford([text for item in items for text in item["refs"]])
    rows = _ragged(np.array(references, dtype=object), np.array([len(item["refs"]) for item in items]))
    return tokenize_stanford([item["cand"] for item in items]), [list(row) for row in rows]


def _ragged(rows: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
    return np.split(rows, np.cumsum(lengths)[:-1])


def _without_untraced(rows: np.ndarray) -> np.ndarray:
    """True boxes carry their area; area 1 marks a word without a trace."""
    return rows[rows[:, 4] != 1, :4]


def _nan(values: list[float | None]) -> list[float]:
    return [float("nan") if value is None else value for value in values]


if __name__ == "__main__":
    sys.exit(main())
