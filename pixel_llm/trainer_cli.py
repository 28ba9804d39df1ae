"""LightningCLI as this project uses it: YAML in, one-line errors out, and the command line has the last word."""

import logging
import sys
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

import lightning as L
from jsonargparse import set_parsing_settings
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from callbacks.last_checkpoint import LastCheckpoint
from callbacks.model_parts import ModelParts
from callbacks.nan_guard import NanGuard
from callbacks.preemption import Preemption, Stopped
from callbacks.run_lock import RunLock
from callbacks.skipped_records import SkippedRecords
from callbacks.step_seed import StepSeed
from pixel_llm.checkpoint_io import CheckpointFiles
from pixel_llm.early_checks import check_run
from pixel_llm.messages import one_line
from pixel_llm.tables import aligned


class Parser(LightningArgumentParser):
    """Names the bad key in a line or two instead of printing the whole usage first."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        sys.stderr.write(f"error: {one_line(message)}\n")
        sys.exit(2)


class SaveConfig(SaveConfigCallback):
    """Also puts the configuration into every checkpoint, so that one file is enough to use a model."""

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["config"] = self.parser.dump(self.config, skip_none=False)


class PixelLLMCLI(LightningCLI):
    """The `fit`, `validate`, `test` and `predict` commands. Configurations may name classes of a few packages only."""

    def __init__(self, **settings: Any) -> None:
        set_parsing_settings(
            import_path_denylist=["*"],
            import_path_allowlist=["pixel_llm", "datamodules", "callbacks", "lightning", "torch"],
        )
        super().__init__(
            L.LightningModule,
            L.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            parser_class=Parser,
            parser_kwargs={"parser_mode": "omegaconf"},
            save_config_callback=SaveConfig,
            save_config_kwargs={"overwrite": True},
            trainer_defaults={
                "callbacks": [StepSeed(), NanGuard(), SkippedRecords(), RunLock(), Preemption()],
                "enable_progress_bar": sys.stdout.isatty(),  # a log file has the lines of `Throughput`
            },
            seed_everything_default=0,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            **settings,
        )

    def before_instantiate_classes(self) -> None:
        if self.subcommand is not None:
            check_run(self.subcommand, self.config[self.subcommand].as_dict())

    def instantiate_trainer(self, **settings: Any) -> L.Trainer:
        """Checkpoints are written by `CheckpointFiles`; in a SLURM job `Preemption` puts it back into the queue.

        `ModelParts` takes the place of Lightning's summary.
        """
        trainer = self._get(self.config_init, "trainer", default={})
        plugins: list[Any] = [*_listed(trainer.get("plugins")), CheckpointFiles()]
        if SLURMEnvironment.detect():
            plugins.append(SLURMEnvironment(auto_requeue=False))
        summary = [] if trainer.get("enable_model_summary") is False else [ModelParts()]
        callbacks = [*_listed(trainer.get("callbacks")), *summary]
        return super().instantiate_trainer(plugins=plugins, callbacks=callbacks, enable_model_summary=False)

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        """Without Lightning's table of figures, which cuts their names; `--verbose true` brings it back."""
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand in ("validate", "test"):
            parser.set_defaults({"verbose": False})
        return parser

    def after_fit(self) -> None:
        """Where the result is; a training that is stopped says so itself."""
        if self.trainer.is_global_zero:
            kept = [c.path for c in self.trainer.checkpoint_callbacks if isinstance(c, LastCheckpoint)]
            where = f"saved as {kept[0]}" if kept else "not saved: the configuration has no LastCheckpoint"
            sys.stderr.write(f"\nfinished after step {self.trainer.global_step}, {where}\n")

    def after_validate(self) -> None:
        self._say_figures(list(self.trainer.callback_metrics))

    def after_test(self) -> None:
        """What the tables of the tasks do not hold: figures that belong to no split."""
        self._say_figures([name for name in self.trainer.callback_metrics if name.count("/") == 1])

    def _say_figures(self, names: Sequence[str]) -> None:
        """A figure on each line, by one process."""
        if names and self.trainer.is_global_zero:
            rows = [[name, f"{self.trainer.callback_metrics[name].item():.4g}"] for name in names]
            sys.stdout.write("\n".join([*aligned(rows), ""]))

    def _parse_ckpt_path(self) -> None:
        """Lightning would let a checkpoint's hyper-parameters silently override the command line."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Refuse to evaluate without the checkpoint that was asked for.

        Starting weights are not read where a checkpoint holds what came of them.
        """
        path = self.config[subcommand].get("ckpt_path")
        found = bool(path) and (path != "last" or self._last_checkpoint_exists())
        if path == "last" and not found and subcommand != "fit":
            raise FileNotFoundError("there is no last checkpoint where this configuration writes them")
        if found:
            self.model.weights = None
        elif subcommand != "fit":
            sys.stderr.write("no --ckpt_path: this is about the starting weights\n")
        super()._run_subcommand(subcommand)

    def _last_checkpoint_exists(self) -> bool:
        callbacks = [c for c in self.trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)]
        return any(callback._find_last_checkpoints(self.trainer) for callback in callbacks)


def _listed(value: Any) -> list[Any]:
    """What may be given as none, one or several."""
    return value if isinstance(value, list) else [] if value is None else [value]


def silence() -> None:
    """Hide what Lightning says at the start of every run and nobody can act on."""
    warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated")
    warnings.filterwarnings("ignore", r"(?s).*there is no last checkpoint available")  # it begins anew, as documented
    warnings.filterwarnings("ignore", r"Checkpoint directory .* exists and is not empty")
    warnings.filterwarnings("ignore", r"Found \d+ module\(s\) in eval mode")  # the frozen SAM is meant to be
    warnings.filterwarnings("ignore", r"It is recommended to use `self\.log\(.*sync_dist")  # figures are of all
    warnings.filterwarnings("ignore", r"(?s)Grad strides do not match bucket view strides")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_no_tip)


def _is_no_tip(record: logging.LogRecord) -> bool:
    return "Tip: For seamless cloud" not in record.getMessage()


def run() -> None:
    """Parse the command line and run the verb."""
    silence()
    try:
        PixelLLMCLI()
    except Stopped as stopped:
        if getattr(rank_zero_only, "rank", 0):
            sys.exit(0)  # the launcher of the other processes must not take this one for dead
        sys.stderr.write(f"\n{stopped}\n")
        sys.exit(stopped.exit_code)
