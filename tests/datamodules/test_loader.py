"""The loader: resumable anywhere, with other ranks and workers; equal counts; errors that name shard and key."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.base import ImageSamples
from datamodules.loader import PlannedLoader, PlannedSource
from datamodules.plan import Plan
from datamodules.shard_index import open_shards
from pixel_llm.structures import Batch
from tests.tiny import toy_narratives


def loader(
    toy: Path, rank: int = 0, world: int = 1, workers: int = 0, batch: int = 3, train: bool = True
) -> PlannedLoader:
    module = toy_narratives(toy, batch_size=batch)
    shards = open_shards(toy / ("narratives_train" if train else "narratives_test"))
    plan = Plan([[len(index) for _, index in shards]], seed=0 if train else None)
    count = plan.samples // (batch * world) if train else -(-plan.samples // (batch * world))
    source = PlannedSource([shards], plan, batch, count, rank, world)
    return PlannedLoader(source, [module.make_sample(train)], ["narratives"], 64, 0, seed=0, num_workers=workers)


def content(batches: list[Batch]) -> list[tuple]:
    return [(b.keys, b.positions, b.images.sum().item(), b.targets.tokens.tolist()) for b in batches]


def test_resumes_exactly_with_other_workers(toy: Path) -> None:
    straight = loader(toy)
    whole = content([*straight, *straight])  # two epochs of 8 batches
    for stop in (3, 8, 11):
        stopped = loader(toy)
        seen: list[Batch] = []
        while len(seen) < stop:
            for batch in stopped:
                seen.append(batch)
                if len(seen) == stop:
                    break
        state = stopped.state_dict()
        resumed = loader(toy, workers=2)
        resumed.load_state_dict(state)
        rest = content(list(resumed))
        while len(rest) + stop < len(whole):
            rest += content(list(resumed))
        assert content(seen) + rest == whole


def test_two_ranks_see_what_one_sees(toy: Path) -> None:
    one = loader(toy, batch=4)
    ranks = [loader(toy, rank, world=2, batch=2) for rank in (0, 1)]
    single = [keys for batch in one for keys in batch.keys]
    pairs = zip(*ranks, strict=True)  # strict: equal counts
    double = [key for pair in pairs for batch in pair for key in batch.keys]
    assert double == single[: len(double)]
    assert len(double) == 24 // 4 * 4


def test_state_moves_between_numbers_of_ranks(toy: Path) -> None:
    two = loader(toy, 0, world=2, batch=2)
    iterator = iter(two)
    for _ in range(3):
        next(iterator)
    one = loader(toy, batch=4)
    one.load_state_dict(two.state_dict())
    whole = [key for batch in loader(toy, batch=4) for key in batch.keys]
    assert [key for batch in one for key in batch.keys] == whole[12:]


def test_resuming_off_a_batch_border_is_refused(toy: Path) -> None:
    with pytest.raises(ValueError, match="no multiple of the global batch of 5"):
        loader(toy, batch=5).load_state_dict({"epoch": 0, "samples": 12})


def test_going_on_with_another_global_batch_is_said(toy: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = {"epoch": 0, "samples": 12, "global_batch": 4}
    loader(toy, batch=4).load_state_dict(state)
    assert not caplog.records
    loader(toy, batch=6).load_state_dict(state)
    assert "a global batch of 6 samples, where it was 4" in caplog.text


def test_evaluation_sees_everything_once_and_marks_the_filling(toy: Path) -> None:
    batches = [batch for rank in (0, 1) for batch in loader(toy, rank, world=2, batch=4, train=False)]
    assert len(batches) == 2
    keys = [r.key for batch in batches for r in batch.references if r is not None]
    assert len(keys) == len(set(keys)) == 6
    assert sum(r is None for batch in batches for r in batch.references) == 2


def test_spawned_workers_pickle(toy: Path) -> None:
    import pickle

    again = pickle.loads(pickle.dumps(loader(toy).source))
    assert again.record(0)["__key__"] == loader(toy).source.record(0)["__key__"]


def test_a_broken_image_names_shard_and_key(tmp_path: Path) -> None:
    good = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(good, "JPEG")
    make = ImageSamples(lambda *_: [], canvas=8)
    record = {"__key__": "k7", "__url__": "a.tar", "jpg": good.getvalue()[:200]}
    with pytest.raises(ValueError, match=r"^a\.tar, k7: the image cannot be read"):
        make(record, np.random.default_rng(0))


def test_shards_are_readable_by_webdataset_itself(toy: Path) -> None:
    import webdataset as wds

    tar = next((toy / "narratives_test").glob("*.tar"))
    theirs = {sample["__key__"]: sample for sample in wds.WebDataset(str(tar), shardshuffle=False)}
    ours = loader(toy, batch=1, train=False)
    for position in range(6):
        record = ours.source.record(position)
        sample = theirs[record["__key__"]]
        assert all(record[field] == sample[field] for field in ("jpg", "json", "trace.npy"))


def test_a_tar_without_its_index_is_named(toy: Path, tmp_path: Path) -> None:
    import shutil

    from datamodules.shard_index import ShardError

    folder = shutil.copytree(toy / "narratives_test", tmp_path / "copy")
    next(folder.glob("*.npz")).unlink()
    with pytest.raises(ShardError, match=r"no index for .*shard"):
        toy_narratives(toy, train_shards=[str(folder)], batch_size=2).train_dataloader()


def test_a_shard_cut_short_while_in_use_is_named(toy: Path, tmp_path: Path) -> None:
    import shutil

    from datamodules.shard_index import ShardError

    folder = shutil.copytree(toy / "narratives_test", tmp_path / "copy")
    module = toy_narratives(toy, test_shards=[str(folder)], batch_size=1)
    batches = iter(module.test_dataloader())
    next(batches)
    os.truncate(next(folder.glob("*.tar")), 3000)
    with pytest.raises(ShardError, match=r"shard-00000\.tar, toy_test_\d: the shard was cut short"):
        list(batches)
