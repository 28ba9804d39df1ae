"""Tiny trainings that several tests share: through a Trainer, or from a YAML through the command line."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml
from torch.utils.data import DataLoader

from callbacks.step_seed import StepSeed
from datamodules.base import ShardDataModule
from datamodules.tokenizer import Tokenizer
from pixel_llm.special_tokens import SpecialTokens
from pixel_llm.tasks.base import Task
from pixel_llm.tasks.optimizer import AdamWSchedule
from pixel_llm.tasks.trace_captioning import TraceCaptioning
from tests.tiny import VOCABULARY, tiny_core

CORE = {
    "sam_encoder": {
        "class_path": "pixel_llm.core.sam_image_encoder.SamImageEncoder",
        "init_args": {
            "width": 16, "depth": 2, "heads": 2, "global_blocks": [1], "image_size": 64, "patch": 16, "window": 2,
            "output_channels": 16,
        },
    },
    "tuned_encoder": {
        "class_path": "pixel_llm.core.conv_encoder.ConvEncoder",
        "init_args": {"width": 16, "stride": 8, "blocks": 1, "heads": 2},
    },
    "language_model": {
        "class_path": "pixel_llm.core.t5.T5",
        "init_args": {
            "width": 16, "layers": 2, "heads": 2, "head_width": 8, "feed_forward": 24, "visual_width": 12,
            "vocabulary_size": VOCABULARY, "dropout": 0.1, "trainable": "all",
        },
    },
    "extractor_width": 16, "extractor_heads": 2, "extractor_mlp": 32, "query_tokens": 4,
    "location_hidden": 16, "location_depth": 2,
}  # fmt: skip

PROPOSAL_HEAD = {
    "class_path": "pixel_llm.core.proposal_head.ProposalHead",
    "init_args": {
        "width": 8, "scales": [1.0], "upsampled_width": 8, "extra_levels": 0, "tower_depth": 1, "norm_groups": 2,
        "level_ranges": [[0.0, 100.0]], "pre_nms": [20, 20], "post_nms": [10, 10], "samples": 16, "detections": 5,
        "score_threshold": 0.0,
    },
}  # fmt: skip


def tiny_config(toy: Path, run: Path, steps: int = 4) -> dict[str, Any]:
    """Trace captioning of the toy world, with dropout; checkpoints at every step below `run`."""
    return {
        "seed_everything": 0,
        "model": {
            "class_path": "pixel_llm.tasks.trace_captioning.TraceCaptioning",
            "init_args": {
                "core": {"class_path": "pixel_llm.core.build.pixel_llm", "init_args": CORE},
                "optimizer": {
                    "class_path": "pixel_llm.tasks.optimizer.AdamWSchedule",
                    "init_args": {"learning_rate": 1e-3, "warmup_steps": 1},
                },
                "max_tokens": 12,
            },
        },
        "data": {
            "class_path": "datamodules.localized_narratives.LocalizedNarrativesDataModule",
            "init_args": {
                **{f"{split}_shards": [str(toy / f"narratives_{split}")] for split in ("train", "val", "test")},
                "tokenizer": str(toy / "tokenizer"),
                "sentences": False, "max_tokens": 24, "image_size": 64, "batch_size": 4, "num_workers": 0,
            },
        },
        "trainer": {
            "accelerator": "cpu",
            "max_steps": steps,
            "limit_val_batches": 0,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "log_every_n_steps": 1,
            "default_root_dir": str(run),
            "logger": {
                "class_path": "lightning.pytorch.loggers.CSVLogger",
                "init_args": {"save_dir": str(run), "name": "", "version": ""},
            },
            "callbacks": [
                {"class_path": "callbacks.last_checkpoint.LastCheckpoint", "init_args": {"every_n_train_steps": 1}},
                {"class_path": "callbacks.throughput.Throughput", "init_args": {"every_n_steps": 2}},
            ],
        },
    }  # fmt: skip


def tiny_referring_config(toy: Path, run: Path, steps: int = 4) -> dict[str, Any]:
    """Referring segmentation of the toy world; otherwise as `tiny_config`."""
    masks = {"mask_adapter": "embedding", "mask_decoder_depth": 1, "mask_decoder_heads": 2}
    config = tiny_config(toy, run, steps)
    config["model"]["class_path"] = "pixel_llm.tasks.referring_localization.ReferringLocalization"
    arguments = config["model"]["init_args"]
    arguments["core"]["init_args"] = CORE | masks
    config["model"]["init_args"] = {"core": arguments["core"], "optimizer": arguments["optimizer"], "segment": True}
    config["data"] = {
        "class_path": "datamodules.referring.ReferringDataModule",
        "init_args": {
            **{f"{split}_shards": [str(toy / f"toy_unc_{split}")] for split in ("train", "val", "test")},
            "tokenizer": str(toy / "tokenizer"),
            "masks": True, "max_tokens": 24, "image_size": 64, "batch_size": 4, "num_workers": 0,
        },
    }  # fmt: skip
    return config


def tiny_regions_config(toy: Path, run: Path, steps: int = 4, dense: bool = False) -> dict[str, Any]:
    """Captioning of regions of the toy world, or dense captioning; otherwise as `tiny_config`."""
    config = tiny_config(toy, run, steps)
    name = "dense_captioning.DenseCaptioning" if dense else "region_captioning.RegionCaptioning"
    config["model"]["class_path"] = f"pixel_llm.tasks.{name}"
    if dense:
        config["model"]["init_args"]["core"]["init_args"] = CORE | {"proposal_head": PROPOSAL_HEAD}
    config["data"] = {
        "class_path": "datamodules.regions.RegionsDataModule",
        "init_args": {
            **{f"{split}_shards": [str(toy / f"toy_unc_{split}")] for split in ("train", "val", "test")},
            "tokenizer": str(toy / "tokenizer"),
            "regions_per_image": 4, "context_prompt": "an object of ", "max_tokens": 24, "image_size": 64,
            "batch_size": 4, "num_workers": 0,
        },
    }  # fmt: skip
    return config


def tiny_joint_config(toy: Path, run: Path, steps: int = 4) -> dict[str, Any]:
    """Joint training on narratives, expressions and regions of the toy world, each with its own prompts."""
    referring, regions = tiny_referring_config(toy, run), tiny_regions_config(toy, run, dense=True)
    config = tiny_config(toy, run, steps)
    config["model"]["class_path"] = "pixel_llm.tasks.joint.JointTraining"
    config["model"]["init_args"]["core"] = regions["model"]["init_args"]["core"]
    referring["data"]["init_args"] |= {"masks": False, "context_prompt": "where is "}
    config["data"] = {
        "class_path": "datamodules.mixture.MixtureDataModule",
        "init_args": {
            "sources": [config["data"], referring["data"], regions["data"]],
            "weights": [1, 1, 1], "evaluate_each": True, "batch_size": 4, "num_workers": 0,
        },
    }  # fmt: skip
    return config


def tiny_dialogues_config(toy: Path, run: Path, steps: int = 4) -> dict[str, Any]:
    """A single transformer on expressions and regions of the toy world; otherwise as `tiny_config`."""
    config = tiny_config(toy, run, steps)
    words = Tokenizer(str(toy / "tokenizer")).vocabulary_size
    sizes = {"width": 32, "layers": 2, "heads": 2, "key_value_heads": 1, "feed_forward": 64}
    backbone = {
        "class_path": "pixel_llm.pixel_sail.transformer.Transformer",
        "init_args": {"vocabulary_size": SpecialTokens(words).vocabulary_size, **sizes},
    }
    core = {"backbone": backbone, "words": words, "patch": 8, "mask_stride": 4, "mask_embedding": 16}
    config["model"] = {
        "class_path": "pixel_llm.tasks.pixel_sail.Dialogues",
        "init_args": {
            "core": {"class_path": "pixel_llm.pixel_sail.build.pixel_sail", "init_args": core},
            "optimizer": config["model"]["init_args"]["optimizer"],
            "mask_loss": {"class_path": "pixel_llm.point_losses.PointMaskLoss", "init_args": {"points": 64}},
            "max_tokens": 12,
        },
    }
    source = {
        **{f"{split}_shards": [str(toy / f"toy_unc_{split}")] for split in ("train", "val", "test")},
        "tokenizer": str(toy / "tokenizer"), "image_size": 64,
    }  # fmt: skip
    kinds = ("referring.ReferringDialoguesDataModule", "regions.RegionDialoguesDataModule")
    config["data"] = {
        "class_path": "datamodules.mixture.MixtureDataModule",
        "init_args": {
            "sources": [{"class_path": f"datamodules.dialogues_{kind}", "init_args": source} for kind in kinds],
            "weights": [1, 1], "evaluate_each": True, "batch_size": 4, "num_workers": 0,
        },
    }  # fmt: skip
    return config


def write_config(path: Path, config: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(config))
    return path


def start(*arguments: object) -> subprocess.Popen[str]:
    """`pixel-llm ARGUMENTS` as a process group of its own, on one thread."""
    line = [sys.executable, "-m", "pixel_llm", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(line, env=environment, start_new_session=True, **pipes)


def command(*arguments: object, timeout: float = 200) -> subprocess.CompletedProcess[str]:
    """The same, and what became of it; TimeoutExpired after so many seconds, when nothing is left of it."""
    process = start(*arguments)
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def tiny_task(dropout: float = 0.0, **changes: Any) -> TraceCaptioning:
    core = tiny_core()
    for module in core.language_model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = dropout
    return TraceCaptioning(core, tiny_optimizer(), **({"max_tokens": 12} | changes))


def tiny_optimizer(learning_rate: float = 1e-2) -> AdamWSchedule:
    return AdamWSchedule(learning_rate, warmup_steps=1)


class OneBatch(L.LightningDataModule):
    """The first training batch of a data module, again and again."""

    def __init__(self, module: ShardDataModule, steps: int) -> None:
        super().__init__()
        self.tokenizer = module.tokenizer
        self.batches = [next(iter(module.train_dataloader()))] * steps

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.batches, batch_size=None)  # type: ignore[arg-type]


class Losses(L.Callback):
    """Collects the loss of every step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: Any) -> None:
        self.values.append(outputs["loss"].item())


def tiny_trainer(folder: Path, steps: int, callbacks: Sequence[L.Callback] = (), **settings: Any) -> L.Trainer:
    """A trainer on the CPU that says nothing and writes nothing unless told to."""
    quiet: dict[str, Any] = {
        "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False, "logger": False,
        "limit_val_batches": 0,
    }  # fmt: skip
    return L.Trainer(
        accelerator="cpu", max_steps=steps, default_root_dir=folder, callbacks=[StepSeed(), *callbacks],
        **(quiet | settings),
    )  # fmt: skip


def fit(
    task: Task,
    data: L.LightningDataModule,
    folder: Path,
    steps: int,
    callbacks: Sequence[L.Callback] = (),
    ckpt_path: Path | None = None,
    **settings: Any,
) -> list[float]:
    """Train with seed 0, maybe on from a checkpoint, and return the loss of every step."""
    losses = Losses()
    L.seed_everything(0)
    tiny_trainer(folder, steps, [losses, *callbacks], **settings).fit(task, data, ckpt_path=ckpt_path)
    return losses.values
