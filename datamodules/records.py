"""What the fields of a record in a shard hold, and reading all records of some shards."""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datamodules.shard_index import ShardIndex

CAPTIONED = ("localized-narratives", "coco-captions")  # kinds of shards that `read_captions` understands
WORDED = (*CAPTIONED, "referring", "regions", "llava", "conversations")  # kinds that `read_texts` understands


def read_captions(data: bytes) -> list[str]:
    """The captions of a `json` field, whether the record is one of captions or of narratives."""
    entry = json.loads(data)
    return entry["captions"] if "captions" in entry else [n["caption"] for n in entry["narratives"]]


def read_texts(data: bytes) -> list[str]:
    """All that is said in a `json` field: captions, expressions, sentences of regions, or turns of conversations."""
    entry = json.loads(data)
    if "expressions" in entry:
        return [expression["text"] for expression in entry["expressions"]]
    if "turns" in entry:
        return [said for turn in entry["turns"] for said in turn.values()]
    if "captions" not in entry and "narratives" not in entry:
        return [region["phrase"] for region in entry["regions"]]
    return read_captions(data)


def read_trace(data: bytes) -> NDArray[np.float64]:
    """float64[M, 5] of narrative, stroke, x, y, t from the bytes of a `trace.npy`.

    np.load takes as long as all other work on a narrative; the header of these arrays is always the same.
    """
    end = 10 + int.from_bytes(data[8:10], "little")
    return np.frombuffer(data, np.float32, offset=end).reshape(-1, 5).astype(np.float64)


def read_field(shards: Iterable[tuple[Path, ShardIndex]], field: str) -> Iterator[bytes]:
    """The bytes of one field of every sample, in the order of the shards."""
    for path, index in shards:
        column = index.fields.index(field)
        file = os.open(path, os.O_RDONLY)
        try:
            for offset, size in zip(index.offsets[:, column].tolist(), index.sizes[:, column].tolist(), strict=True):
                yield os.pread(file, size, offset)
        finally:
            os.close(file)
