"""What a checkpoint is of can be told without its weights, and none is ever executed."""

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from pixel_llm.checkpoint_io import CheckpointFiles
from pixel_llm.weights.checkpoint import check_task, read_checkpoint, read_config
from pixel_llm.weights.exported import write_exported
from pixel_llm.weights.shards import write_share


class Hostile:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.file),)


def test_a_hostile_checkpoint_is_refused_and_not_run(tmp_path: Path) -> None:
    victim = tmp_path / "made"
    content = {"config": "", "state_dict": {}, "more": Hostile(victim)}
    torch.save(content, tmp_path / "last.ckpt")
    (tmp_path / "plain.ckpt").write_bytes(pickle.dumps(content))
    (tmp_path / "shares").mkdir()
    torch.save({"world": 1, "content": content}, tmp_path / "shares/rank_00000.pt")
    for name in ("last.ckpt", "plain.ckpt", "shares"):
        for read in (read_checkpoint, read_config):
            with pytest.raises(ValueError, match=r"not a (share of a )?checkpoint, or a damaged one$"):
                read(tmp_path / name)
    assert not victim.exists()


def test_the_configuration_is_read_from_every_form_without_the_frozen_weights(tmp_path: Path) -> None:
    state = {"a": torch.ones(2), "b": torch.zeros(2)}
    content = {"config": "x: 1", "state_dict": dict(state), "frozen": {"names": ["a"]}}
    CheckpointFiles().save_checkpoint(content, tmp_path / "last.ckpt")
    (frozen,) = tmp_path.glob("frozen-*")
    frozen.unlink()
    for rank in (0, 1):
        write_share(tmp_path / "shares", {"config": "x: 1", "state_dict": state}, rank, world=2)
    (tmp_path / "shares/rank_00001.pt").unlink()
    write_exported(tmp_path / "exported", state, "x: 1", "{}")
    for name in ("last.ckpt", "shares", "exported"):
        assert read_config(tmp_path / name) == "x: 1"


def test_joint_training_can_be_evaluated_by_a_task_and_not_trained_on() -> None:
    joint = "model: {class_path: pixel_llm.tasks.joint.JointTraining}"
    check_task(joint, "TraceCaptioning", "last.ckpt", training=False)
    check_task("", "TraceCaptioning", "last.ckpt", training=True)  # of a trainer that writes none
    with pytest.raises(ValueError, match=r"^last\.ckpt: a checkpoint of JointTraining, not of TraceCaptioning$"):
        check_task(joint, "TraceCaptioning", "last.ckpt", training=True)
