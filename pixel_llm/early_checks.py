"""What can be refused before a model is made, which may take minutes."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_only

from callbacks.run_lock import check_free
from datamodules.features import advice
from datamodules.remote import is_address
from datamodules.shard_index import ShardError, read_manifest
from pixel_llm.weights.checkpoint import check_task, read_config

_SPLITS = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ("test",)}
_CHOSEN_LATER = ("last", "best", "hpc")  # checkpoints that the trainer looks for


def check_run(verb: str, config: Mapping[str, Any]) -> None:
    """Check what a run with this configuration needs and may not have.

    Raises FileNotFoundError naming all missing data at once, or a missing checkpoint; ValueError for a checkpoint of
    another task, and for a log folder that another training writes into.
    """
    checkpoint = config.get("ckpt_path")
    missing = [*missing_data(config.get("data"), _SPLITS[verb])]
    if not checkpoint:  # which holds what came of the starting weights
        missing += missing_weights(config["model"])
    if missing:
        raise FileNotFoundError("; ".join(dict.fromkeys(missing)))
    if checkpoint and checkpoint not in _CHOSEN_LATER:
        if not Path(checkpoint).exists():
            raise FileNotFoundError(f"Checkpoint file not found: {checkpoint}")
        check_task(read_config(Path(checkpoint)), task_of(config["model"]), checkpoint, verb == "fit")
    folder = log_folder(config.get("trainer") or {})
    if verb == "fit" and folder is not None and not getattr(rank_zero_only, "rank", 0):
        check_free(folder)


def missing_data(section: Any, splits: Sequence[str], features: bool = True) -> Iterator[str]:
    """What a data section names and this machine does not have: tokenizers, and folders of shards of these splits.

    features: folders of features, too.
    """
    if isinstance(section, list):
        for part in section:
            yield from missing_data(part, splits, features)
    if not isinstance(section, dict):
        return
    for key, value in section.items():
        if key == "tokenizer" and isinstance(value, str) and not Path(value).exists():
            yield f"no tokenizer at {value}"
        elif key in {f"{split}_shards" for split in splits} and isinstance(value, list):
            yield from (line for folder in value if (line := _no_shards(folder)))
        elif key == "features" and isinstance(value, str) and features and not Path(value).is_dir():
            yield f"no features in {value}: {advice(Path(value))}"
        else:
            yield from missing_data(value, splits, features)


def _no_shards(folder: str) -> str:
    """Why a folder on this machine is none of shards; "" for one that is."""
    try:
        if not is_address(folder):
            read_manifest(Path(folder))
    except ShardError as error:
        return str(error)
    return ""


def missing_weights(model: Mapping[str, Any]) -> Iterator[str]:
    """The checkpoints that a model starts from and that are not there."""
    section = (model.get("init_args") or {}).get("weights") or {}
    for name, path in (section.get("init_args") or {}).items():
        if str(path).endswith(".ckpt") and not Path(path).exists():
            yield f"{path}: no such file; it is the starting weights' {name!r}"


def task_of(model: Mapping[str, Any]) -> str:
    return model["class_path"].rpartition(".")[2]


def log_folder(trainer: Mapping[str, Any]) -> Path | None:
    """Where a run writes to; None where the configuration alone does not tell."""
    loggers = trainer.get("logger")
    logger = loggers[0] if isinstance(loggers, list) and loggers else loggers
    arguments = logger.get("init_args") if isinstance(logger, dict) else None
    given = [(arguments or {}).get(name) for name in ("save_dir", "name", "version")]
    parts = [part for part in given if isinstance(part, str)]  # a number, or none, and a new folder is chosen
    return Path(*parts) if len(parts) == len(given) else None
