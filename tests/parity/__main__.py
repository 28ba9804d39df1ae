"""`python -m tests.parity GOLDEN_DIR`: our modules against numbers of the published code, file by file.

Prints one line per output; exits with 1 when one differs, when a file cannot be checked or when nothing was.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from tests.parity import core_components as core
from tests.parity import detector
from tests.parity.data import check_ln_alignment, check_tokenizers, check_transforms
from tests.parity.dense_model import check_dense_model
from tests.parity.evaluators import check_evaluators
from tests.parity.language import check_decode_bigram, check_text_decoder_t5
from tests.parity.losses import check_losses
from tests.parity.pipelines import check_pipelines
from tests.parity.region_metrics import check_densecap_eval
from tests.parity.report import Report
from tests.parity.resize import check_resize
from tests.parity.training import check_optim
from tests.parity.whole_model import check_model, check_real_param_shapes

NOTE = "Tolerances are relative to the largest value of an output: 2e-5 for a component, 1e-4 for a whole model."
OUTSIDE = "outside the shipped configurations"

# golden file -> what checks it; add new ones here
CHECKERS: dict[str, Callable[[Report, Path], None]] = {
    "eva02_vit": core.check_eva02_vit,
    "sam_vit": core.check_sam_vit,
    "prompt_encoder": core.check_prompt_encoder,
    "two_way_transformer": core.check_two_way_transformer,
    "prompt_adapter": core.check_prompt_adapter,
    "prompt_adapter_sameDim": core.check_prompt_adapter,
    "visual_project_layers": core.check_visual_project_layers,
    "text_decoder_git": core.check_text_decoder_git,
    "point_predictor": core.check_point_predictor,
    "point_predictor_default": core.check_point_predictor,
    "mask_decoder": core.check_mask_decoder,
    "mask_decoder_full256": core.check_mask_decoder,
    "mask_adapter": core.check_mask_adapter,
    "mask_adapter_noproj_nogate": core.check_mask_adapter,
    "fpn": detector.check_fpn,
    "centernet_head": detector.check_centernet_head,
    "centernet_targets": detector.check_centernet_targets,
    "nms": detector.check_nms,
    "roi_align": detector.check_roi_align,
    "roi_utils": detector.check_roi_utils,
    "box_decoder": detector.check_box_decoder,
    "resize": check_resize,
    "text_decoder_t5": check_text_decoder_t5,
    "text_decoder_t5_lora": check_text_decoder_t5,
    "decode_bigram": check_decode_bigram,
    "losses": check_losses,
    "transforms": check_transforms,
    "tokenizers": check_tokenizers,
    "ln_alignment": check_ln_alignment,
    "pipelines": check_pipelines,
    "evaluators": check_evaluators,
    "densecap_eval": check_densecap_eval,
    "optim": check_optim,
    "model_t5_trace": check_model,
    "model_bert_trace": check_model,
    "model_t5_ref": check_model,
    "model_bert_ref": check_model,
    "model_t5_refseg": check_model,
    "model_bert_refseg": check_model,
    "model_t5_densecap": check_dense_model,
    "model_bert_densecap": check_dense_model,
    "model_t5_joint": check_dense_model,
    "model_bert_joint": check_dense_model,
    "real_param_shapes": check_real_param_shapes,
}


def compare(folder: Path) -> Report:
    """Check every file of a golden directory that we have a counterpart of; list the others."""
    report = Report(NOTE)
    for path in sorted([*folder.glob("*.npz"), *folder.glob("*.json")]):
        if path.stem in CHECKERS:
            _check(report, path)
        elif path.stem.startswith("model_params") or path.stem in ("ln_annotations", "pipelines_text"):
            continue  # read together with the files that need them
        elif path.stem in ("det_vit", "utils") or path.stem.endswith("_variant"):
            report.skip(path.stem, OUTSIDE)
        else:
            report.skip(path.stem)
    return report


def _check(report: Report, path: Path) -> None:
    try:
        with torch.no_grad():
            CHECKERS[path.stem](report, path)
    except Exception as error:  # one broken file must not hide the others
        report.fail(path.stem, "", f"{type(error).__name__}: {error}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.parity", description=__doc__)
    parser.add_argument("folder", type=Path, help="directory of golden files")
    folder = parser.parse_args().folder
    if not folder.is_dir():
        print(f"{folder}: no such directory", file=sys.stderr)
        return 1
    report = compare(folder)
    report.print()
    return report.exit_code


if __name__ == "__main__":
    sys.exit(main())
