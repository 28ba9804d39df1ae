"""Samples per CPU second of the loader, against decoding the same JPEG files and nothing else.

    python -m benchmarks.loader

The pictures have the size, the spectrum and the bytes of photos; each has a narrative of twenty seconds with
its trace. They go through `prepare` into shards and through the data module out of them, as in training.
"""

import gc
import io
import json
import resource
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.report import cpu_seconds, say, section
from datamodules.base import ShardDataModule
from datamodules.loader import PlannedLoader
from datamodules.localized_narratives import LocalizedNarrativesDataModule
from datamodules.prepare import localized_narratives
from datamodules.prepare.shards import write_shards
from datamodules.records import read_field
from datamodules.samples import collate
from datamodules.shard_index import open_shards
from datamodules.tokenizer import train_tokenizer
from datamodules.views import resize, resized_shape

IMAGES, WIDTH, HEIGHT, CANVAS, BATCH, SAMPLES = 128, 640, 480, 384, 32, 768
SENTENCES, POINTS_PER_SECOND, SECONDS_PER_WORD = 4, 60, 0.4
NAMES = ("man", "woman", "child", "dog", "horse", "tree", "house", "road", "boat", "table", "chair", "car", "building")
KINDS = ("small", "large", "red", "white", "brown", "old", "young", "green", "wooden", "bright")
AIM = "0.85"

TEXT = f"""Photo-like JPEG files of {WIDTH} × {HEIGHT} pixels ({{kilobytes:.0f}} kB each), with narratives of four
sentences and their traces, to batches of {BATCH} on a canvas of {CANVAS} pixels. Samples per CPU second of all
processes together; with one worker its start is included, and on the clock it made {{clock:.0f}} samples/s. Decoding
is by PIL, as the loader decodes; resizing is what any loader has to do. Of the loader's {{total:.2f}} ms per sample,
{{spent}}."""
HEADER = ["work", "samples per CPU s", "of decoding alone", "aim", "of decoding and resizing"]


def photo(rng: np.random.Generator) -> NDArray[np.uint8]:
    """uint8[HEIGHT, WIDTH, 3]: noise whose amplitude falls with the frequency, as that of photos does."""
    frequency = np.hypot(np.fft.fftfreq(HEIGHT)[:, None], np.fft.rfftfreq(WIDTH))
    frequency[0, 0] = 1
    shared, own = (
        np.fft.irfft2(np.fft.rfft2(rng.normal(size=(channels, HEIGHT, WIDTH))) / frequency, (HEIGHT, WIDTH))
        for channels in (1, 3)
    )
    mixed = shared + 0.3 * own
    pixels = 128 + 55 * (mixed - mixed.mean()) / mixed.std()
    return np.clip(pixels, 0, 255).astype(np.uint8).transpose(1, 2, 0)


def narrative(number: int, rng: np.random.Generator) -> dict[str, object]:
    """A line of a Localized Narratives file: words spoken one after the other over a wandering mouse."""
    sentences = [
        "In this image we can see a {} {} near the {} {}.".format(*rng.choice(KINDS, 2), *rng.choice(NAMES, 2))
        for _ in range(SENTENCES)
    ]
    words = " ".join(sentences).split()
    times = SECONDS_PER_WORD * np.arange(len(words) + 1)
    points = int(times[-1] * POINTS_PER_SECOND)
    path = 0.5 + 0.3 * np.sin(np.linspace(0, 20, points)[:, None] * (1.0, 1.7))
    stroke = [{"x": x, "y": y, "t": i / POINTS_PER_SECOND} for i, (x, y) in enumerate(path.round(4).tolist())]
    return {
        "dataset_id": "benchmark",
        "image_id": str(number),
        "image_file": f"{number}.jpg",
        "annotator_id": 0,
        "caption": " ".join(words),
        "timed_caption": [
            {"utterance": word, "start_time": start, "end_time": stop}
            for word, start, stop in zip(words, times[:-1].tolist(), times[1:].tolist(), strict=True)
        ],
        "traces": [stroke],
    }


def prepare(folder: Path) -> Path:
    """Raw files, shards and a tokenizer in a folder."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    lines = []
    for number in range(IMAGES):
        Image.fromarray(photo(rng)).save(folder / "images" / f"{number}.jpg", quality=90)
        lines.append(narrative(number, rng))
    (folder / "narratives.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    corpus = localized_narratives.open_corpus([folder / "narratives.jsonl"])
    write_shards(corpus, folder / "images", folder / "shards", workers=1, shard_size=IMAGES)
    tokenizer = train_tokenizer([str(line["caption"]) for line in lines], vocabulary_size=2000)
    (folder / "tokenizer.json").write_text(tokenizer.to_json())
    return folder


def data_module(folder: Path, workers: int) -> LocalizedNarrativesDataModule:
    return LocalizedNarrativesDataModule(
        train_shards=[str(folder / "shards")],
        val_shards=[],
        test_shards=[],
        tokenizer=str(folder / "tokenizer.json"),
        image_size=CANVAS,
        batch_size=BATCH,
        num_workers=workers,
        samples_per_epoch=SAMPLES,
    )


def decode(jpegs: Iterable[bytes]) -> list[NDArray[np.uint8]]:
    return [np.array(Image.open(io.BytesIO(jpeg))) for jpeg in jpegs]


def decode_and_resize(jpegs: Iterable[bytes]) -> None:
    for jpeg in jpegs:
        pixels = torch.from_numpy(np.array(Image.open(io.BytesIO(jpeg)))).permute(2, 0, 1)
        resize(pixels, resized_shape(HEIGHT, WIDTH, CANVAS, CANVAS))


def epoch(loader: PlannedLoader) -> None:
    assert sum(len(batch.keys) for batch in loader) == SAMPLES


def with_worker(module: ShardDataModule) -> tuple[float, float]:
    """CPU seconds of an epoch in all processes, and its seconds on the clock; each the best of several."""

    def used() -> float:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)  # a worker counts once it has ended
        return time.process_time() + children.ru_utime + children.ru_stime

    turns = []
    for _ in range(3):
        begun, start = used(), time.perf_counter()
        epoch(module.train_dataloader())
        clock = time.perf_counter() - start
        gc.collect()
        turns.append((used() - begun, clock))
    return min(cpu for cpu, _ in turns), min(clock for _, clock in turns)


def stages(module: ShardDataModule) -> dict[str, float]:
    """CPU seconds per sample of the loader's stages."""
    source, make = module.train_dataloader().source, module.make_sample(training=True)
    rng = np.random.default_rng(0)
    records = [source.record(position) for position in range(IMAGES)]
    samples = [make(record, rng) for record in records]
    questions = module.questions(training=True)
    works: dict[str, Callable[[], object]] = {
        "reading from the shards": lambda: [source.record(position) for position in range(IMAGES)],
        "captions, traces and tokens": lambda: [
            questions(r, s.view, rng) for r, s in zip(records, samples, strict=True)
        ],
        "stacking": lambda: [collate(samples[i : i + BATCH], CANVAS, 0) for i in range(0, IMAGES, BATCH)],
    }
    return {name: cpu_seconds(work, repeats=5) / IMAGES for name, work in works.items()}


def measure(folder: Path) -> str:
    jpegs = list(read_field(open_shards(folder / "shards"), "jpg"))
    alone, worker = data_module(folder, 0), data_module(folder, 1)
    decoding = cpu_seconds(lambda: decode(jpegs), repeats=5) / IMAGES
    resizing = cpu_seconds(lambda: decode_and_resize(jpegs), repeats=5) / IMAGES
    loading = cpu_seconds(lambda: epoch(alone.train_dataloader())) / SAMPLES
    in_worker, clock = (seconds / SAMPLES for seconds in with_worker(worker))
    works = (
        ("decoding alone", decoding, ""),
        ("decoding and resizing", resizing, ""),
        ("loader, no worker", loading, AIM),
        ("loader, one worker", in_worker, ""),
    )
    rows = [
        (name, f"{1 / s:.0f}", f"{decoding / s:.2f}", aim, f"{resizing / s:.2f}" if s >= resizing else "")
        for name, s, aim in works
    ]
    for row in rows:
        say(f"   {row[0]}: {row[1]} samples/s")
    parts = {"decoding": decoding, "resizing": resizing - decoding, **stages(alone)}
    spent = ", ".join(f"{name} {1000 * s:.2f}" for name, s in parts.items())
    kilobytes = sum(map(len, jpegs)) / len(jpegs) / 1000
    text = TEXT.format(kilobytes=kilobytes, clock=1 / clock, total=1000 * loading, spent=spent)
    return section("Loader", text, HEADER, rows)


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        say(f"   making {IMAGES} pictures")
        print(measure(prepare(Path(folder))))


if __name__ == "__main__":
    main()
