"""Records that cannot be used and shards that change: never silent, and the order stays that of the plan."""

import io
import logging
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from callbacks.skipped_records import SkippedRecords
from datamodules.localized_narratives import LocalizedNarrativesDataModule
from datamodules.shard_index import ShardError, write_index
from pixel_llm.messages import lost_process, one_line
from pixel_llm.structures import Batch
from tests.datamodules.shards import copy_of, damage, keys_of
from tests.datamodules.test_base import on_rank
from tests.runs import start, tiny_config, tiny_task, tiny_trainer, write_config
from tests.tiny import toy_narratives


def module(toy: Path, folder: Path, **changes: object) -> LocalizedNarrativesDataModule:
    settings: dict = {"train_shards": [str(folder)], "test_shards": [str(folder)], "batch_size": 3}
    return toy_narratives(toy, **(settings | changes))


def keys(batches: list[Batch]) -> list[str]:
    return [key for batch in batches for key in batch.keys]


def skipped(batches: list[Batch]) -> list[str]:
    return [line for batch in batches for line in batch.skipped]


@pytest.fixture
def folder(toy: Path, tmp_path: Path) -> Path:
    return copy_of(toy / "narratives_train", tmp_path / "narratives")


def test_the_record_behind_it_takes_the_place(toy: Path, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Two in a row are bad, and the last of all, behind which the first one comes."""
    written, whole = keys_of(folder), keys(list(module(toy, folder).train_dataloader()))
    bad = {written[4]: "jpg", written[5]: "json", written[-1]: "trace.npy"}
    tars = {key: damage(folder, key, field) for key, field in bad.items()}
    with caplog.at_level(logging.WARNING):
        batches = list(module(toy, folder).train_dataloader())
    instead = {written[4]: written[6], written[5]: written[6], written[-1]: written[0]}
    assert keys(batches) == [instead.get(key, key) for key in whole]
    lines = skipped(batches)
    assert {line.split(": ")[0] for line in lines} == {f"{tar}, {key}" for key, tar in tars.items()}
    assert len(lines) == 4  # the second of the two in a row was also tried for the first
    reasons = {line.split(": ", 1)[1].split(" (")[0] for line in lines}
    trace = "ValueError buffer size must be a multiple of element size"
    assert reasons == {"the image cannot be read", "broken JSON", trace}
    [named] = [record.message for record in caplog.records]
    assert lines[0] in named


def test_the_order_does_not_depend_on_workers_ranks_or_a_stop(toy: Path, folder: Path) -> None:
    for key in keys_of(folder)[3:20:4]:
        damage(folder, key, "jpg")
    straight = list(module(toy, folder).train_dataloader())
    stopped = module(toy, folder).train_dataloader()
    begun = iter(stopped)
    first = [next(begun) for _ in range(5)]
    resumed = module(toy, folder, num_workers=2).train_dataloader()
    resumed.load_state_dict(stopped.state_dict())
    rest = list(resumed)
    assert keys(first + rest) == keys(straight)
    assert skipped(first + rest) == skipped(straight)
    assert [b.images.sum() for b in first + rest] == [b.images.sum() for b in straight]
    ranks = [list(on_rank(module(toy, folder, batch_size=1), rank, 3).train_dataloader()) for rank in range(3)]
    assert [key for triple in zip(*ranks, strict=True) for batch in triple for key in batch.keys] == keys(straight)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("loader", ["train_dataloader", "test_dataloader"])
def test_strict_training_and_every_evaluation_stop(toy: Path, folder: Path, workers: int, loader: str) -> None:
    key = keys_of(folder)[7]
    tar = damage(folder, key, "json")
    strict = loader == "train_dataloader"
    with pytest.raises(ShardError) as raised:
        list(getattr(module(toy, folder, strict=strict, num_workers=workers), loader)())
    assert one_line(raised.value).startswith(f"{tar}, {key}: broken JSON (Expecting value: ")


def test_a_missing_field_is_named(toy: Path, tmp_path: Path) -> None:
    folder = copy_of(toy / "narratives_test", tmp_path / "narratives")
    [tar] = folder.glob("*.tar")
    with tarfile.open(tar) as archive:
        members = [(member, archive.extractfile(member).read()) for member in archive]  # type: ignore[union-attr]
    lost = next(member.name for member, _ in members if member.name.endswith("trace.npy"))
    with tarfile.open(tar, "w") as archive:
        for member, data in members:
            member.name = member.name.replace(lost, lost.replace("trace.npy", "other.npy"))
            archive.addfile(member, io.BytesIO(data))
    write_index(tar)
    batches = list(module(toy, folder).train_dataloader())
    assert skipped(batches) == [f"{tar}, {lost.split('.')[0]}: 'trace.npy' is missing"]


def test_many_in_a_row_are_no_accident(toy: Path, folder: Path) -> None:
    for key in keys_of(folder):
        damage(folder, key, "jpg")
    with pytest.raises(ShardError, match=r"^16 records in a row cannot be used, first .*: the image cannot be read"):
        next(iter(module(toy, folder).train_dataloader()))


def test_a_shard_that_is_overwritten_while_it_is_read_stops_the_run(toy: Path, folder: Path) -> None:
    """It is no bad record: nothing in it can be trusted."""
    batches = iter(module(toy, folder).train_dataloader())
    next(batches)
    time.sleep(0.01)  # for the clock of the files
    for key in keys_of(folder):
        damage(folder, key, "jpg")
    with pytest.raises(ShardError, match=r"shard-0000\d\.tar was changed while it was read$"):
        list(batches)


@pytest.mark.parametrize(("change", "message"), [
    (lambda tar: tar.unlink(), r"shard-0000\d\.tar is missing"),
    (lambda tar: tar.open("ab").write(bytes(512)), r"shard-0000\d\.tar changed since the run began"),
])  # fmt: skip
def test_a_shard_that_changes_before_it_is_opened_stops_the_run(toy, folder, change, message) -> None:
    loader = module(toy, folder).train_dataloader()
    for tar in folder.glob("*.tar"):
        change(tar)
    with pytest.raises(ShardError, match=message):
        next(iter(loader))


def test_skipped_records_are_counted_over_epochs_and_at_the_end(
    toy: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for key in keys_of(folder)[2:20:5]:
        damage(folder, key, "jpg")
    trainer = tiny_trainer(tmp_path, steps=16, callbacks=[SkippedRecords()])
    trainer.fit(tiny_task(), module(toy, folder))
    assert trainer.current_epoch == 2
    assert trainer.callback_metrics["data/skipped_records"] == 4
    assert capsys.readouterr().err.endswith("8 training records could not be used; others took their places\n")


@pytest.mark.slow
def test_a_killed_worker_is_one_line_that_says_what_to_do(toy: Path, tmp_path: Path) -> None:
    config = tiny_config(toy, tmp_path / "run", steps=100_000)
    config["data"]["init_args"] |= {"num_workers": 1, "samples_per_epoch": 100_000}
    run = start("fit", "--config", write_config(tmp_path / "config.yaml", config))
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children")
    while not (tmp_path / "run/checkpoints/last.ckpt").exists() or not children.read_text():
        assert run.poll() is None, run.communicate()
        time.sleep(0.01)
    os.kill(int(children.read_text().split()[0]), signal.SIGKILL)
    _, said = run.communicate(timeout=60)
    assert run.returncode == 2
    last = said.strip().splitlines()[-1]
    assert last.startswith("error: a data loading process died, and with it the run (DataLoader worker (pid")
    assert "use fewer num_workers, or give the job more memory" in last
    assert "Traceback" not in said


HELD = """
import sys
from pathlib import Path
from tests.tiny import toy_narratives
data = toy_narratives(Path(sys.argv[1]), train_shards=[sys.argv[2]], batch_size=1, num_workers=1)
batches = iter(data.train_dataloader())
next(batches)
"""


def test_a_process_ends_that_still_holds_a_loader(toy: Path, folder: Path) -> None:
    subprocess.run([sys.executable, "-c", HELD, toy, folder], check=True, timeout=60)


def test_other_errors_of_that_type_are_no_lost_process() -> None:
    assert lost_process(RuntimeError("something else")) is None
