"""Random access to shards: an index beside each tar, and the manifest of a folder of them.

`x.tar` has `x.index.npz`: the keys, and for each field of each sample its offset and size in the tar, so that a
sample is read by `pread`, in any order. `manifest.json` names the shards that belong to the folder. Whatever does
not fit together - a shard cut short, replaced or lost - is found when the folder is opened and named in one line.
"""

import io
import json
import tarfile
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from pixel_llm.whole_files import write_whole

FORMAT = "pixel-llm shards"
VERSION = 1
MANIFEST = "manifest.json"
PROGRESS = "progress.jsonl"  # of a conversion that has not finished; it becomes the manifest


class ShardError(Exception):
    """Shards, or a conversion to shards, that cannot be used; the message is one line for a person."""


@dataclass(frozen=True, eq=False)
class ShardIndex:
    """Where the bytes of every sample of one tar lie.

    keys: N names.  fields: F names, such as `jpg`, `json`, `trace.npy`.
    offsets, sizes: int64[N, F] in bytes; -1 where a sample lacks the field.
    tar_bytes: size of the tar that this describes.
    """

    keys: list[str]
    fields: list[str]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    tar_bytes: int

    def __len__(self) -> int:
        return len(self.keys)


class Shard(NamedTuple):
    """A tar on this machine with its index."""

    path: Path
    entries: ShardIndex

    @property
    def samples(self) -> int:
        return len(self.entries)

    @property
    def address(self) -> str:
        return str(self.path)

    def fetch(self) -> "Shard":
        """It is here already; see `RemoteShard`."""
        return self


@dataclass(frozen=True)
class ShardEntry:
    """A line of the manifest: the file's name within the folder, its samples and its size."""

    file: str
    samples: int
    bytes: int

    def describes(self, index: ShardIndex) -> bool:
        """Whether the index is of a shard of this size."""
        return (self.bytes, self.samples) == (index.tar_bytes, len(index))


@dataclass(frozen=True)
class Manifest:
    """settings: what the shards were made from and how, as the converter put it.  shards: in order."""

    settings: dict[str, Any]
    shards: list[ShardEntry]


def index_path(tar: Path) -> Path:
    """`x.index.npz` of `x.tar`."""
    return tar.with_suffix(".index.npz")


def build_index(tar: Path) -> ShardIndex:
    """Reads the headers of a tar.

    Raises ShardError where the tar is missing, truncated or no tar, or where its names do not tell samples apart:
    a member's name is `<key>.<field>`, the key without a dot, all fields of a key next to each other.
    """
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    current = None
    for name, offset, size in _members(tar):
        key, field = split_name(str(tar), name)
        if key in samples and (key != current or field in samples[key]):
            raise ShardError(f"{tar}: two samples have the key {key!r}")
        samples.setdefault(key, {})[field] = (offset, size)
        current = key
    fields = sorted({field for sample in samples.values() for field in sample})
    absent = (-1, -1)
    places = [[sample.get(field, absent) for field in fields] for sample in samples.values()]
    table = np.array(places, dtype=np.int64).reshape(len(samples), len(fields), 2)
    return ShardIndex(list(samples), fields, table[..., 0].copy(), table[..., 1].copy(), tar.stat().st_size)


def write_index(tar: Path) -> ShardIndex:
    """Builds the index of a tar and puts it beside it. Raises ShardError as `build_index` does."""
    index = build_index(tar)
    buffer = io.BytesIO()
    np.savez(
        buffer,
        keys=_to_bytes(index.keys),
        fields=_to_bytes(index.fields),
        offsets=index.offsets,
        sizes=index.sizes,
        tar_bytes=np.int64(index.tar_bytes),
    )
    write_whole(index_path(tar), buffer.getvalue())
    return index


def load_index(tar: Path) -> ShardIndex:
    """The index beside a tar; ShardError where either is missing or they do not belong together."""
    if not tar.is_file():
        raise ShardError(f"{tar} is missing")
    advice = f"run `pixel-llm prepare index {tar.parent}`"
    if not index_path(tar).is_file():
        raise ShardError(f"no index for {tar}: {advice}")
    try:
        with np.load(index_path(tar), allow_pickle=False) as stored:
            keys, fields = _from_bytes(stored["keys"]), _from_bytes(stored["fields"])
            index = ShardIndex(keys, fields, stored["offsets"], stored["sizes"], int(stored["tar_bytes"]))
    except (BadZipFile, KeyError, ValueError, EOFError, OSError):
        raise ShardError(f"{index_path(tar)} is no readable index: {advice}") from None
    if not _is_consistent(index):
        raise ShardError(f"{index_path(tar)} is no readable index: {advice}")
    found = tar.stat().st_size
    if found < index.tar_bytes:
        raise ShardError(f"{tar} is truncated: {found} of {index.tar_bytes} bytes")
    if found > index.tar_bytes:
        raise ShardError(f"{tar} changed since its index was written: {advice}")
    return index


def is_whole(folder: Path, entry: ShardEntry) -> bool:
    """Whether a shard lies in a folder, with its index, as an entry says."""
    try:
        return entry.describes(load_index(folder / entry.file))
    except ShardError:
        return False


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes `manifest.json`; the bytes depend on nothing but the manifest."""
    content = {
        "format": FORMAT,
        "version": VERSION,
        "settings": manifest.settings,
        "shards": [asdict(shard) for shard in manifest.shards],
    }
    write_whole(folder / MANIFEST, json.dumps(content, indent=1, sort_keys=True).encode() + b"\n")


def read_manifest(folder: Path) -> Manifest:
    """Reads `manifest.json`; ShardError where the folder or it is missing, foreign or of another version."""
    if not folder.is_dir():
        raise ShardError(f"no folder of shards at {folder}")
    if not (folder / MANIFEST).is_file():
        if (folder / PROGRESS).is_file():
            raise ShardError(f"the conversion into {folder} has not finished: run its command again to go on")
        if any(folder.glob("progress-*-of-*.jsonl")):
            raise ShardError(f"the parts of {folder} are not merged: run `pixel-llm prepare merge {folder}`")
        raise ShardError(f"{folder} has no {MANIFEST}: not a folder of shards")
    return parse_manifest((folder / MANIFEST).read_bytes(), str(folder / MANIFEST))


def parse_manifest(data: bytes, name: str) -> Manifest:
    """The manifest in the bytes of a file of this name; ShardError where it is foreign or of another version."""
    try:
        content = json.loads(data)
        if content["format"] != FORMAT or content["version"] != VERSION:
            raise ShardError(f"{name} is not of the format {FORMAT!r}, version {VERSION}")
        return Manifest(dict(content["settings"]), [ShardEntry(**shard) for shard in content["shards"]])
    except (ValueError, KeyError, TypeError):
        raise ShardError(f"{name} is broken") from None


def check_kind(manifest: Manifest, folder: Path | str, kinds: Collection[str]) -> None:
    """Raises ShardError where the shards of a folder come from none of these converters; none given, all will do."""
    kind = manifest.settings.get("kind")
    if kinds and kind not in kinds:
        raise ShardError(f"{folder} holds {kind}, where {' or '.join(kinds)} is needed")


def open_shards(folder: Path, kinds: Collection[str] = ()) -> list[Shard]:
    """The tars of a folder with their indexes, in the manifest's order.

    kinds: the converters whose shards will do; none given, all do.
    Raises ShardError with one line for a missing folder, manifest, shard or index, for shards of another kind, and
    for a shard that is not the one that the manifest or its index describes.
    """
    opened = []
    manifest = read_manifest(folder)
    check_kind(manifest, folder, kinds)
    for shard in manifest.shards:
        tar = folder / shard.file
        index = load_index(tar)
        if not shard.describes(index):
            raise ShardError(f"{tar} changed since {folder / MANIFEST} was written")
        opened.append(Shard(tar, index))
    return opened


def shard_folders(path: Path) -> list[Path]:
    """The folders of shards that a path names: itself, and those directly in it; sorted."""
    return sorted(manifest.parent for manifest in (*path.glob(MANIFEST), *path.glob(f"*/{MANIFEST}")))


def _members(tar: Path) -> Iterator[tuple[str, int, int]]:
    """Name, offset and size of the regular files in a tar."""
    end = 0
    try:
        with tarfile.open(tar, "r:") as archive:
            for member in archive:
                if member.isreg():
                    yield member.name, member.offset_data, member.size
            end = archive.offset
    except FileNotFoundError:
        raise ShardError(f"{tar} is missing") from None
    except tarfile.TarError:
        raise ShardError(f"{tar} is truncated or not a tar") from None
    with tar.open("rb") as file:
        file.seek(end)
        # A tar cut exactly between two members looks whole but for the two empty blocks at its end.
        if len(file.read(2 * tarfile.BLOCKSIZE)) < 2 * tarfile.BLOCKSIZE:
            raise ShardError(f"{tar} is truncated: it has no end mark")


def split_name(tar: str, name: str) -> tuple[str, str]:
    """The key and the field of a member of a tar; ShardError where it has none.

    A field of two parts is an array's name (`trace.npy`), anything else a dot in a key.
    """
    folder, _, base = name.rpartition("/")
    stem, _, field = base.partition(".")
    if not stem or not field:
        raise ShardError(f"{tar}: the name {name!r} is not <key>.<field>")
    if "." in field and not (field.count(".") == 1 and field.endswith(".npy")):
        raise ShardError(f"{tar}: the key of {name!r} has a dot")
    return (f"{folder}/{stem}" if folder else stem), field


def _is_consistent(index: ShardIndex) -> bool:
    shape = (len(index.keys), len(index.fields))
    if not index.offsets.shape == index.sizes.shape == shape or index.offsets.dtype.kind != "i":
        return False
    return bool(np.all(index.offsets + index.sizes <= index.tar_bytes))


def _to_bytes(names: list[str]) -> NDArray[np.bytes_]:
    return np.array([name.encode() for name in names], dtype=np.bytes_)


def _from_bytes(names: NDArray[np.bytes_]) -> list[str]:
    return [name.decode() for name in names.tolist()]
