"""Shards to break, shared by several tests."""

import shutil
from pathlib import Path

from datamodules.shard_index import load_index


def copy_of(folder: Path, to: Path) -> Path:
    """A copy of a folder of shards, to be damaged."""
    return Path(shutil.copytree(folder, to))


def damage(folder: Path, key: str, field: str) -> str:
    """Overwrites a field of the sample of this key by as many blanks; returns the path of its tar."""
    for tar in sorted(folder.glob("*.tar")):
        index = load_index(tar)
        if key in index.keys:
            row, column = index.keys.index(key), index.fields.index(field)
            with tar.open("r+b") as file:
                file.seek(int(index.offsets[row, column]))
                file.write(b" " * int(index.sizes[row, column]))
            return str(tar)
    raise KeyError(key)


def keys_of(folder: Path) -> list[str]:
    """All keys as written."""
    return [key for tar in sorted(folder.glob("*.tar")) for key in load_index(tar).keys]
