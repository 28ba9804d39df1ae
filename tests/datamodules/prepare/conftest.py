"""A small corpus for the converters: a few drawn pictures, and narratives about them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

MakeCorpus = Callable[..., Path]


def narrative(image_id: str, caption: str = "a red ball", **changes: Any) -> dict[str, Any]:
    """A record in which every word takes one second and moves the mouse one step."""
    words = caption.split()
    return {
        "dataset_id": "mscoco_train2017",
        "image_id": image_id,
        "annotator_id": 1,
        "caption": caption,
        "timed_caption": [{"utterance": w, "start_time": i, "end_time": i + 1} for i, w in enumerate(words)],
        "traces": [[{"x": 0.1 * i, "y": 0.5, "t": i + 0.5} for i in range(len(words))]],
        **changes,
    }


def write_jsonl(path: Path, records: list[Any]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.fixture
def make_corpus(tmp_path: Path) -> MakeCorpus:
    """make_corpus(n) writes n COCO-named pictures to tmp_path/images and two narratives of each, in two files."""

    def make(n: int) -> Path:
        images = tmp_path / "images"
        images.mkdir()
        for i in range(n):
            Image.new("RGB", (20 + i, 10), (i * 7 % 256, 90, 90)).save(images / f"{i:012d}.jpg")
        write_jsonl(tmp_path / "n-0.jsonl", [narrative(str(i)) for i in range(n)])
        write_jsonl(tmp_path / "n-1.jsonl", [narrative(str(i), "one more") for i in reversed(range(n))])
        return tmp_path

    return make


@pytest.fixture
def contents() -> Callable[[Path], dict[str, bytes]]:
    """contents(folder) -> name and bytes of every file in it."""
    return lambda folder: {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
