"""Opening referring data of any form, recognised by its names and content."""

from pathlib import Path

from datamodules.formats.records import FormatError
from datamodules.formats.refer import is_refs_file, read_refs, refs_files
from datamodules.formats.referring import ReferringSplit, ReferringSplits
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
    for files in _by_data_set(paths):
        read_refs(files, splits)
    return splits.all()


def _by_data_set(paths: list[Path]) -> list[list[Path]]:
    """Files of refs that share their instances, together."""
    folders: dict[Path, list[Path]] = {}
    for path in paths:
        found = refs_files(path) if path.is_dir() else [path]
        if not found:
            raise FormatError(f"{path}: no referring data in this folder")
        for file in found:
            if not is_refs_file(file):
                raise FormatError(f"{file}: not a file of referring data")
            folders.setdefault(file.parent, []).append(file)
    return [list(dict.fromkeys(files)) for files in folders.values()]
