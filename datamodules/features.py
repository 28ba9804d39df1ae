"""What a frozen encoder made of images, computed once: caches that `pixel-llm prepare features` wrote.

A cache is a folder of shards, or several in one folder; caches of several encoders stand together in a folder, each
in one of its encoder's name. A sample's key is made from the bytes of the picture as data
sets store it, so that an image that stands in several data sets has one entry. Its field `bf16.npy` is an array
int16[D, h, w] that holds the bits of bfloat16, which numpy does not know. It is the encoder's map of the whole canvas:
what an encoder says about padding is not zero, and the model reads it.
"""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.shard_index import ShardError, ShardIndex, open_shards, read_manifest, shard_folders

KIND = "features"
PART = "part-"  # begins the name of a folder that holds a share of the images
FIELD = "bf16.npy"
VIEW = "the whole image, its longer side resized to the canvas (bilinear), zeros beyond it"


@dataclass(frozen=True)
class Producer:
    """Who made features, and from what; all that they depend on beside the images.

    name: of the encoder in the model.  weights: its fingerprint.  image_size: side of the canvas in pixels.
    channels, height, width: of a map.  view: how the image lies on the canvas.
    """

    name: str
    weights: str
    image_size: int
    channels: int
    height: int
    width: int
    view: str = VIEW

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.channels, self.height, self.width


class FeatureCache:
    """The features of images by the bytes of their files.

    asked: the folder that a person names, where it is another one; for errors.
    Raises ShardError with one line for a folder without features, of which a part is missing, or whose parts were
    made in different ways.
    """

    def __init__(self, folder: Path, asked: Path | None = None) -> None:
        self.folder, self.asked = folder, asked or folder
        self.producer = _read_producer(folder, self.asked)
        shards = [shard for part in shard_folders(folder) for shard in open_shards(part, [KIND])]
        if not shards:
            raise ShardError(f"no features in {folder}: {advice(self.asked)}")
        keys = np.concatenate([np.array(index.keys, dtype=np.bytes_) for _, index in shards])
        order = np.argsort(keys)
        # arrays, not a dictionary: they reach worker processes at once, however many images there are
        self._keys = keys[order]
        self._paths = [path for path, _ in shards]
        self._shards = np.repeat(np.arange(len(shards)), [len(index) for _, index in shards])[order]
        self._ends = np.concatenate([_ends(index) for _, index in shards])[order]

    def __len__(self) -> int:
        return len(self._keys)

    def read(self, picture: bytes, name: str) -> Tensor:
        """bfloat16[D, h, w] of an image by the bytes of its file; name: the record, for the error.

        Raises ShardError with one line where the cache lacks the image or was cut short.
        """
        key = image_key(picture).encode()
        row = int(np.searchsorted(self._keys, key))
        if row == len(self) or self._keys[row] != key:
            raise ShardError(f"{name}: no features of this image in {self.folder}: {advice(self.asked)}")
        path, shape = self._paths[self._shards[row]], self.producer.shape
        values = bytearray(2 * shape[0] * shape[1] * shape[2])
        with path.open("rb", buffering=0) as file:
            file.seek(int(self._ends[row]) - len(values))
            if file.readinto(values) != len(values):
                raise ShardError(f"{path}: the shard was cut short since it was opened")
        return torch.frombuffer(values, dtype=torch.bfloat16).view(shape)


def open_caches(folder: Path) -> list[FeatureCache]:
    """The caches in a folder: one for each encoder in a folder of its name, or one that is the folder itself.

    Raises ShardError as `FeatureCache` does, and for a folder that does not have its encoder's name.
    """
    named = sorted(path for path in folder.glob("*") if path.is_dir() and not path.name.startswith(PART))
    caches = [FeatureCache(path, folder) for path in named] or [FeatureCache(folder)]
    for cache in caches if named else []:
        if cache.folder.name != cache.producer.name:
            raise ShardError(f"{cache.folder} holds features of {cache.producer.name}: give it that name")
    return caches


def image_key(picture: bytes) -> str:
    """The key of an image: half of the SHA-256 of its file."""
    return hashlib.sha256(picture).hexdigest()[:32]


def cache_settings(producer: Producer, part: int = 0, parts: int = 1) -> dict[str, Any]:
    """The settings in the manifest of one folder of a cache."""
    return {"kind": KIND, **asdict(producer), "part": part, "parts": parts, "complete": True}


def advice(folder: Path, more: str = "") -> str:
    """What to do about features that are not there."""
    return f"run `pixel-llm prepare features --config CONFIG --out {folder}{more}`"


def _read_producer(folder: Path, asked: Path) -> Producer:
    """Who made the features in a folder, one and the same in all parts; arguments and errors of `FeatureCache`."""
    found: dict[Path, dict[str, Any]] = {part: read_manifest(part).settings for part in shard_folders(folder)}
    if not found:
        raise ShardError(f"no features in {folder}: {advice(asked)}")
    for path, settings in found.items():
        if settings.pop("kind") != KIND:
            raise ShardError(f"{path} holds no {KIND}")
        if not settings.pop("complete"):
            raise ShardError(f"the features in {path} are not complete: run their command again to go on")
    there = {(settings.pop("part"), settings.pop("parts")) for settings in found.values()}
    if missing := sorted({(part, parts) for _, parts in there for part in range(parts)} - there):
        part, parts = missing[0]
        raise ShardError(f"{folder} lacks part {part} of {parts}: {advice(asked, f' --part {part} --of {parts}')}")
    producers = {Producer(**settings): path for path, settings in found.items()}
    if len(producers) > 1:
        raise ShardError(f"{' and '.join(map(str, producers.values()))} hold features of different encoders or sizes")
    return next(iter(producers))


def _ends(index: ShardIndex) -> NDArray[np.int64]:
    """int64[N]: where the array of each sample ends in the tar."""
    column = index.fields.index(FIELD)
    return index.offsets[:, column] + index.sizes[:, column]
