"""All metrics over two processes, one of them with fewer samples or none, against one process."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from pixel_llm.metrics.captions import CaptionMetrics
from pixel_llm.metrics.dense_captioning import DenseCaptioningMetrics
from pixel_llm.metrics.dense_captioning_scores import DetectedRegions, TrueRegions
from pixel_llm.metrics.distributed import on_rank_zero
from pixel_llm.metrics.lbm import LocalBipartiteMatching
from pixel_llm.metrics.object_words import ObjectWordsInside
from pixel_llm.metrics.point_l1 import PointL1
from pixel_llm.metrics.referring import ReferringMetrics
from pixel_llm.metrics.region_captions import RegionCaptionMetrics
from pixel_llm.structures import Reference, ReferringPrediction

SAMPLES = 5
CAPTIONS = ["a dog runs", "two cats", "", "a red car on a street", "sky"]
REFERENCES = [["a dog runs fast", "the dog"], ["two cats sleep"], ["nothing"], ["a red car"], ["blue sky"]]


def evaluate(samples: list[int]) -> dict[str, float]:
    """All metrics over the given samples of a made-up data set, one update each."""
    words, points, inside, texts = LocalBipartiteMatching(k=1), PointL1(), ObjectWordsInside(), CaptionMetrics()
    referring, dense, captions = ReferringMetrics(), DenseCaptioningMetrics(), RegionCaptionMetrics()
    for sample in samples:
        rng = torch.Generator().manual_seed(sample)
        boxes, truth = torch.rand(2, 10 * sample, 4, generator=rng)  # sample 0 has no box and is skipped
        words.update([boxes], [truth])
        corners = boxes.reshape(1, -1, 2, 2)
        points.update(corners, truth.reshape(1, -1, 2, 2), torch.ones(corners.shape[:2], dtype=torch.bool))
        inside.update(boxes[:, :2], truth.sort(dim=1).values)
        texts.update([f"key{sample}"], [CAPTIONS[sample]], [REFERENCES[sample]])
        regions = [[0.0, 0.0, 20.0, 9.0 * i + 9] for i in range(sample)]  # sample 0 has none
        true = TrueRegions(np.array(regions).reshape(-1, 4), CAPTIONS[:sample])
        detected = DetectedRegions(np.array([[0.0, 0.0, 20.0, 15.0]]), np.array([0.1 * sample]), [CAPTIONS[0]])
        dense.update([f"{'ab'[sample % 2]}/{sample}"], [true], [detected])
        captions.update([f"{'ab'[sample % 2]}/{sample}"], [CAPTIONS[sample]], [REFERENCES[sample]])
        reference = Reference(f"key{sample}", "", split="ab"[sample % 2], targets=[(0.0, 0.0, 1.0, 1.0)])
        referring.update([reference], [ReferringPrediction("", "", (0.0, 0.0, 20.0 * sample, 99.0))], [(100, 100)])
    values = {"lbm": words, "point_l1": points, "inside": inside}
    by_split = {"referring": referring.compute(), "dense": dense.compute(), "regions": captions.compute()}
    figures = {f"{k}/{s}/{n}": v for k, splits in by_split.items() for s, own in splits.items() for n, v in own.items()}
    figures |= texts.compute()
    return {name: metric.compute().item() for name, metric in values.items()} | figures


def run_rank(rank: int, parts: list[list[list[int]]], folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    values = [evaluate(part[rank]) for part in parts]
    try:
        on_rank_zero(lambda: 1 // 0)
    except ZeroDivisionError as error:
        values.append({"error": str(error)})
    (folder / f"{rank}.json").write_text(json.dumps(values))
    dist.destroy_process_group()


def test_two_ranks_give_the_numbers_of_one(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")  # no Java: what is tested is who holds which row
    everything = list(range(SAMPLES))
    uneven, empty = [[3, 0, 4, 1], [2]], [everything, []]
    mp.spawn(run_rank, ([uneven, empty, empty[::-1]], tmp_path), nprocs=2)
    alone = evaluate(everything)
    for rank in range(2):
        *values, error = json.loads((tmp_path / f"{rank}.json").read_text())
        assert len(values) == 3
        for value in values:
            assert value == pytest.approx(alone, abs=1e-12)
        assert "division" in error["error"]
