"""Captions of given regions over a whole data set, split by split."""

from pixel_llm.metrics.captions import CaptionMetrics, score_captions
from pixel_llm.metrics.distributed import gather_rows, on_rank_zero, split_rows
from pixel_llm.metrics.region_overlap import MERGE_IOU

SINGLE_REFERENCE = "a single reference per region"
MERGED_REFERENCES = f"references of regions merged at IoU {MERGE_IOU}"


class RegionCaptionMetrics(CaptionMetrics):
    """`CaptionMetrics` whose keys are SPLIT/REGION; `compute` returns the scores of every split."""

    def compute(self) -> dict[str, dict[str, float]]:  # type: ignore[override]
        splits = split_rows(gather_rows(self.rows))
        return on_rank_zero(lambda: {split: score_captions(*zip(*rows, strict=True)) for split, rows in splits.items()})
