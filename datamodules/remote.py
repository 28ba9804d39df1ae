"""Shards that lie elsewhere, at `s3://`, `gs://`, `https://` or any other address that fsspec can read.

A shard is fetched whole when it is first needed and kept in the folder $PIXEL_LLM_CACHE, by default
~/.cache/pixel_llm/shards. However many processes need it, one fetches it and the others wait. A file in the cache is
whole or not there; what has another size than the manifest says is fetched anew, and so is everything where the
manifest itself has changed. Nothing is ever deleted from the cache.
"""

import errno
import fcntl
import hashlib
import os
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
from fsspec import AbstractFileSystem

from datamodules.shard_index import (
    MANIFEST,
    Shard,
    ShardEntry,
    ShardError,
    build_index,
    check_kind,
    load_index,
    open_shards,
    parse_manifest,
    write_index,
)

TRIES = 4  # of whatever may go wrong on the way, with 1, 2 and 4 seconds between them
_SILENCE = 60.0  # seconds without a byte that end a try


@dataclass(frozen=True)
class RemoteShard:
    """A tar elsewhere.  entry: its line of the manifest.  path: of its copy in the cache."""

    address: str
    entry: ShardEntry
    path: Path

    @property
    def samples(self) -> int:
        return self.entry.samples

    def fetch(self) -> Shard:
        """The copy in the cache, with its index. Raises ShardError where it is not to be had."""
        found = self._cached()
        if found is not None:
            return found
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(self.path.with_suffix(".lock")):
            return self._cached() or self._download()

    def _cached(self) -> Shard | None:
        try:
            index = load_index(self.path)
        except ShardError:
            return None
        return Shard(self.path, index) if self.entry.describes(index) else None

    def _download(self) -> Shard:
        part = self.path.with_name(self.path.name + ".part")
        for attempt in range(TRIES):
            try:
                self._get(part)
                break
            except Exception as error:  # every backend has errors of its own
                wait_or_raise(self.address, error, attempt)
        try:
            if len(build_index(part)) != self.entry.samples:
                raise ShardError(f"it has not the {self.entry.samples} samples that its manifest says")
        except ShardError as error:
            raise ShardError(f"{self.address}: not the shard of its manifest ({error})") from None
        part.replace(self.path)
        return Shard(self.path, write_index(self.path))

    def _get(self, part: Path) -> None:
        system, path = file_system(self.address)
        system.get_file(path, str(part))
        with part.open("rb") as file:
            os.fsync(file.fileno())
        if part.stat().st_size != self.entry.bytes:
            raise OSError(f"{part.stat().st_size} bytes, where its manifest says {self.entry.bytes}")


def is_address(folder: str) -> bool:
    """Whether it is an address and no path."""
    return "://" in folder


def open_folder(folder: str, kinds: Collection[str] = ()) -> list[Shard] | list[RemoteShard]:
    """The shards of a folder on this machine (see `open_shards`) or elsewhere, in the manifest's order.

    Of a folder elsewhere only the manifest is read. Raises ShardError with one line.
    """
    if folder.startswith("pipe:"):
        raise ShardError(f"{folder}: no command is run to get data; give a folder or an address such as s3://")
    if not is_address(folder):
        return list(open_shards(Path(folder), kinds))
    folder = folder.rstrip("/")
    data = _read(f"{folder}/{MANIFEST}")
    manifest = parse_manifest(data, f"{folder}/{MANIFEST}")
    check_kind(manifest, folder, kinds)
    cache = _cache() / f"{folder.rpartition('/')[2]}-{hashlib.sha256(folder.encode() + data).hexdigest()[:16]}"
    return [RemoteShard(f"{folder}/{shard.file}", shard, cache / shard.file) for shard in manifest.shards]


def file_system(address: str) -> tuple[AbstractFileSystem, str]:
    """What reads an address, and the address as it wants it. ShardError where it is not installed or unknown."""
    options: dict[str, Any] = {}
    try:
        if address.startswith(("http://", "https://")):
            from aiohttp import ClientTimeout

            # its own default ends every download after five minutes
            options["client_kwargs"] = {"timeout": ClientTimeout(None, sock_connect=_SILENCE, sock_read=_SILENCE)}
        return fsspec.url_to_fs(address, **options)
    except (ImportError, ValueError) as error:
        raise ShardError(f"{address} cannot be read: {error}") from None


def wait_or_raise(address: str, error: Exception, attempt: int) -> None:
    """After a try that failed: waits for the next, or raises ShardError where it was the last or none can help."""
    if isinstance(error, ShardError):
        raise error
    if isinstance(error, FileNotFoundError):
        raise ShardError(f"{address} is missing") from None
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        raise ShardError(f"no space left in {_cache()} for {address}: set PIXEL_LLM_CACHE to a larger disk") from None
    if attempt == TRIES - 1:
        said = " ".join(f"{type(error).__name__} {error}".split())
        raise ShardError(f"{address} could not be read in {TRIES} tries: {said}") from error
    time.sleep(2**attempt)


def _read(address: str) -> bytes:
    for attempt in range(TRIES):
        try:
            system, path = file_system(address)
            return bytes(system.cat_file(path))
        except Exception as error:  # every backend has errors of its own
            wait_or_raise(address, error, attempt)
    raise AssertionError


def _cache() -> Path:
    return Path(os.environ.get("PIXEL_LLM_CACHE") or "~/.cache/pixel_llm/shards").expanduser()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Only one process at a time; the system itself unlocks where one is killed."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
