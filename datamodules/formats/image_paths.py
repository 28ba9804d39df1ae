"""Where the picture of an annotation lies in the image folder of each published data set.

| data set | image id | files looked for |
|---|---|---|
| COCO | 391895 | `train2017/000000391895.jpg`, `000000391895.jpg` |
| Flickr30k | 1000092795 | `1000092795.jpg` |
| Open Images | 0c4f95a9d5a54 | `train/0c4f95a9d5a54.jpg`, `0c4f95a9d5a54.jpg` |
| ADE20k | ADE_train_00000001 | `training/ADE_train_00000001.jpg`, `ADE_train_00000001.jpg` |
"""

import re
from pathlib import PurePosixPath

from datamodules.formats.records import RecordError

_ENDINGS = ("jpg", "jpeg", "png")
_COCO_DIGITS = 12
_SPLIT = re.compile(r"(train|val|test)\d*")
_FOLDERS = {"train": ("train", "training"), "val": ("val", "validation"), "test": ("test", "testing")}


def check_inside(path: str, name: str) -> str:
    """The path itself; RecordError where it would lead out of the folder that it is relative to."""
    if "\\" in path or "\0" in path or path.startswith("/") or ".." in PurePosixPath(path).parts:
        raise RecordError(f"{name!r} leaves the image folder")
    return path


def candidate_image_paths(dataset_id: str, image_id: str, image_file: str | None = None) -> list[str]:
    """Paths relative to the image folder where the image may lie, the likeliest first.

    dataset_id: says the split where it holds `train`, `val` or `test` (`mscoco_train2017`, `ADE20k_validation`).
    image_file: a path or file name that the annotation itself gives.
    Raises RecordError for an id or a path that leads out of the folder.
    """
    folders = [*_split_folders(dataset_id), ""]
    files = [f"{name}.{ending}" for name in _names(dataset_id, image_id) for ending in _ENDINGS]
    named = [check_inside(image_file, "image_file")] if image_file else []
    named += [f"{folder}/{image_file}" for folder in folders if folder and image_file]
    return named + [f"{folder}/{file}" if folder else file for file in files for folder in folders]


def _split_folders(dataset_id: str) -> list[str]:
    """The folders that a split may be in: `train2017` of `mscoco_train2017`, then the plain names."""
    split = _SPLIT.search(dataset_id.lower())
    return list(dict.fromkeys([split[0], *_FOLDERS[split[1]]])) if split else []


def _names(dataset_id: str, image_id: str) -> list[str]:
    """The file's name without its ending: as it is, and padded with zeros as COCO does."""
    plain = check_inside(image_id, "image_id")
    if not (plain.isascii() and plain.isdigit()) or len(plain) >= _COCO_DIGITS:
        return [plain]
    padded = plain.zfill(_COCO_DIGITS)
    return [plain, padded] if "flickr" in dataset_id.lower() else [padded, plain]
