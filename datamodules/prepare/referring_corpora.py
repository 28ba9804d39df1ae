"""Opening referring data of any form, recognised by its names and content."""

from pathlib import Path

from datamodules.formats.mdetr import is_mdetr, read_mdetr
from datamodules.formats.records import FormatError, read_json
from datamodules.formats.refer import INSTANCES, is_refs_file, read_refs, refs_files
from datamodules.formats.referring import ReferringSplit, ReferringSplits
from datamodules.formats.referring_jsonl import read_referring_jsonl
from datamodules.formats.uninext import is_uninext, read_uninext
from datamodules.prepare.corpus import Corpus
from datamodules.prepare.referring import split_corpus


def open_referring(paths: list[Path], split: str | None = None) -> list[Corpus]:
    """The truth of referring data without its pictures, one corpus for each split.

    paths and split: as `read_referring` takes them. `describe` of a corpus gives the content of an image.
    """
    return [split_corpus(found) for found in read_referring(paths, split)]


def read_referring(paths: list[Path], split: str | None = None) -> list[ReferringSplit]:
    """The splits that files and folders hold, in order of first appearance.

    split: a name to put everything under, for files that do not name their split.
    Raises FormatError for what is no referring data.
    """
    splits = ReferringSplits(split)
    refs: dict[Path, list[Path]] = {}  # folder -> its files of refs, which share their instances
    for path in dict.fromkeys(file for given in paths for file in _files(given)):
        if is_refs_file(path):
            refs.setdefault(path.parent, []).append(path)
        elif path.suffix == ".jsonl":
            read_referring_jsonl(path, splits)
        elif path.name != INSTANCES or not refs_files(path.parent):
            _read_json(path, splits)
    for files in refs.values():
        read_refs(files, splits)
    return splits.all()


def _files(path: Path) -> list[Path]:
    """A file itself; of a folder its files of refs, else its instances, else whatever may hold expressions."""
    if not path.is_dir():
        return [path]
    instances = [path / INSTANCES] if (path / INSTANCES).is_file() else []
    found = refs_files(path) or instances or sorted([*path.glob("*.json"), *path.glob("*.jsonl")])
    if not found:
        raise FormatError(f"{path}: no referring data in this folder")
    return found


def _read_json(path: Path, splits: ReferringSplits) -> None:
    whole = read_json(path)
    if is_mdetr(whole):
        read_mdetr(path, whole, splits)
    elif is_uninext(whole):
        read_uninext(path, whole, splits)
    else:
        raise FormatError(f"{path}: neither refs, nor a file of MDETR's or of UNINEXT's form, nor JSON lines")
