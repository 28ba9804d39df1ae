"""A cache of features: exact, one entry for an image, the same however it was written, and nothing else's."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from datamodules.base import Shards
from datamodules.features import FeatureCache, Producer, image_key
from datamodules.prepare.features import Pictures, write_features
from datamodules.prepare.report import Report
from datamodules.prepare.shards import write_shard
from datamodules.records import read_field
from datamodules.shard_index import Manifest, ShardError, open_shards, write_manifest
from tests.tiny import toy_narratives

CANVAS = 64
PRODUCER = Producer("encoder", "0123", CANVAS, channels=3, height=8, width=8)
Contents = Callable[[Path], dict[str, bytes]]


def encode(images: Tensor, sizes: Tensor) -> Tensor:
    """Something of every part of the canvas, its padding and its size included, of both signs."""
    means = torch.nn.functional.adaptive_avg_pool2d(images.float(), 8) - 100
    return means * means.abs().sqrt() + sizes.float().mean(1)[:, None, None, None] / 3


def write(toy: Path, out: Path, *names: str, producer: Producer = PRODUCER, **changes: Any) -> Report:
    shards: Shards = [shard for name in names or ("narratives_train",) for shard in open_shards(toy / name)]
    settings = {"encode": encode, "shard_size": 10, "batch_size": 4} | changes
    return write_features(Pictures.of(shards, producer.image_size), out, producer, **settings)


def test_features_are_those_of_the_training_images_rounded_once(toy: Path, tmp_path: Path) -> None:
    write(toy, tmp_path / "features")
    seen = 0
    for batch in toy_narratives(toy, features=str(tmp_path / "features")).train_dataloader():
        wanted = encode(batch.images, batch.sizes).bfloat16()
        assert torch.equal(batch.features["encoder"].view(torch.int16), wanted.view(torch.int16))
        seen += len(batch.keys)
    assert seen == 24


def test_workers_read_the_same(toy: Path, tmp_path: Path) -> None:
    write(toy, tmp_path / "features", workers=1)
    alone, helped = (
        list(toy_narratives(toy, features=str(tmp_path / "features"), num_workers=n).train_dataloader()) for n in (0, 2)
    )
    assert [b.keys for b in alone] == [b.keys for b in helped]
    assert all(torch.equal(a.features["encoder"], h.features["encoder"]) for a, h in zip(alone, helped, strict=True))


def test_an_image_of_several_data_sets_is_encoded_once(toy: Path, tmp_path: Path) -> None:
    """Narratives, objects and expressions are of the same 24 pictures, under other keys."""
    report = write(toy, tmp_path, "narratives_train", "instances_train", "toy_unc_train")
    assert (report.counts["images read"], report.counts["images encoded"]) == (72, 24)
    assert len(FeatureCache(tmp_path)) == 24
    assert write(toy, tmp_path, "toy_unc_train").counts["images encoded"] == 0
    assert write(toy, tmp_path, "toy_unc_train", "narratives_val").counts["images encoded"] == 6
    assert len(FeatureCache(tmp_path)) == 30


class Stop(Exception):
    pass


def failing(after: int) -> Callable[[Tensor, Tensor], Tensor]:
    """The encoder of a process that is killed after some batches."""
    done = []

    def call(images: Tensor, sizes: Tensor) -> Tensor:
        if len(done) == after:
            raise Stop
        done.append(len(images))
        return encode(images, sizes)

    return call


@pytest.mark.parametrize("after", [0, 2, 5])
def test_an_interrupted_run_goes_on(toy: Path, tmp_path: Path, contents: Contents, after: int) -> None:
    write(toy, tmp_path / "straight")
    with pytest.raises(Stop):
        write(toy, tmp_path / "stopped", encode=failing(after))
    with pytest.raises(ShardError, match=r"^no features in|are not complete: run their command again"):
        FeatureCache(tmp_path / "stopped")
    rest = write(toy, tmp_path / "stopped").counts["images encoded"]
    assert rest == 24 - 4 * after // 10 * 10
    assert contents(tmp_path / "stopped") == contents(tmp_path / "straight")


def test_a_damaged_shard_is_made_again(toy: Path, tmp_path: Path, contents: Contents) -> None:
    write(toy, tmp_path)
    before = contents(tmp_path)
    (tmp_path / "shard-00001.tar").write_bytes(b"short")
    with pytest.raises(ShardError, match=r"shard-00001\.tar is truncated"):
        FeatureCache(tmp_path)
    assert write(toy, tmp_path).counts["images encoded"] == 10
    assert contents(tmp_path) == before


def test_parts_are_one_cache(toy: Path, tmp_path: Path) -> None:
    encoded = write(toy, tmp_path, part=0, parts=2).counts["images encoded"]
    with pytest.raises(ShardError, match=r"lacks part 1 of 2: run .* --part 1 --of 2"):
        FeatureCache(tmp_path)
    assert encoded + write(toy, tmp_path, part=1, parts=2).counts["images encoded"] == 24
    assert 0 < encoded < 24
    batches = toy_narratives(toy, features=str(tmp_path)).train_dataloader()
    assert sum(len(batch.keys) for batch in batches) == 24


def test_a_folder_holds_the_features_of_one_encoder(toy: Path, tmp_path: Path) -> None:
    write(toy, tmp_path)
    other = Producer("encoder", "4567", CANVAS, channels=3, height=8, width=8)
    with pytest.raises(ShardError, match="weights 0123 there, 4567 here"):
        write(toy, tmp_path, producer=other)
    with pytest.raises(ShardError, match="weights 0123 there, 4567 here"):
        write(toy, tmp_path, producer=other, part=0, parts=2)
    with pytest.raises(ShardError, match="kind localized-narratives there, features here"):
        write(toy, toy / "narratives_train")


def test_broken_pictures_are_counted_and_named(toy: Path, tmp_path: Path) -> None:
    pictures = list(read_field(open_shards(toy / "narratives_val"), "jpg"))
    pictures[2] = pictures[2][:300]
    report = write(shards_of(tmp_path / "one", pictures), tmp_path / "features", ".")
    assert report.counts["images encoded"] == 5
    assert "a.tar, k2: the image cannot be read" in report.reasons()
    nothing = shards_of(tmp_path / "all", [b"no picture"])
    with pytest.raises(ShardError, match=r"not one image could be encoded: image broken \(1 images\), such as .*k0"):
        write(nothing, tmp_path / "nothing", ".")


def shards_of(folder: Path, pictures: list[bytes]) -> Path:
    folder.mkdir()
    entry = write_shard(folder / "a.tar", ((f"k{i}", {"jpg": jpg}) for i, jpg in enumerate(pictures)))
    write_manifest(folder, Manifest({"kind": "test"}, [entry]))
    return folder


def test_the_array_is_one_of_numpy(toy: Path, tmp_path: Path) -> None:
    """Whoever reads the shards without this package: `np.load`, and the bits are those of bfloat16."""
    write(toy, tmp_path, "narratives_val")
    shards = open_shards(tmp_path)
    keys = [key for _, index in shards for key in index.keys]
    arrays = [np.load(io.BytesIO(data)) for data in read_field(shards, "bf16.npy")]
    cache = FeatureCache(tmp_path)
    for picture in read_field(open_shards(toy / "narratives_val"), "jpg"):
        array = arrays[keys.index(image_key(picture))]
        values = (array.astype(np.uint16).astype(np.uint32) << 16).view(np.float32)  # bfloat16 is the upper half
        assert np.array_equal(values, cache.read(picture, "").float().numpy())
