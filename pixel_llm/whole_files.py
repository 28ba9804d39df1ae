"""Files that are whole or not there, whatever happens while they are written."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Write to the path that this gives; it then takes the place of `path` at once, after all of it is on the disk.

    Raises OSError with one line where that fails; what was at `path` before is then still there.
    """
    part = path.with_name(f"{path.name}.part")  # what a killed process left is written over
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
        mode = part.stat().st_mode
        yield part
        part.chmod(mode)  # safetensors lets nobody else read what it writes
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
        _flush_folder(path.parent)
    except (OSError, RuntimeError) as error:  # torch raises the latter where a disk is full
        _remove(part)
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise OSError(f"{path} cannot be written: {reason}; what was there before is untouched") from error
    except BaseException:
        _remove(part)
        raise


def write_whole(path: Path, data: bytes) -> None:
    """As `whole_file`, of content in memory."""
    with whole_file(path) as part:
        part.write_bytes(data)


def _remove(part: Path) -> None:
    with suppress(OSError):
        part.unlink()


def _flush_folder(folder: Path) -> None:
    """The new name itself is on the disk only after this."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
