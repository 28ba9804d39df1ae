"""A training step on features of the frozen SAM encoder that were computed beforehand, and what they take.

    python -m benchmarks.frozen_features

The features of photo-like pictures are written by `prepare features` and read as a data module reads them.
"""

import io
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.loader import photo
from benchmarks.model_sizes import DEVICE, SIZES, Size, inputs, seconds_of, training
from benchmarks.report import cpu_seconds, say, section
from datamodules.features import FeatureCache, Producer
from datamodules.prepare.features import Pictures, write_features
from datamodules.prepare.shards import write_shard
from datamodules.records import read_field
from datamodules.shard_index import Shard, load_index
from pixel_llm.core.pixel_llm import PixelLLM

PICTURES = 32
NAMES = ("toy", "base", "paper")

TEXT = f"""The training step of "By model size", with SAM's encoder and with its features at hand. Reading is done by
the loader's workers: the hash of a picture's bytes ({{kilobytes:.0f}} kB) and a map from the shards, which the system
had in memory; decoding such a picture takes 3.8 ms. Disk is what {PICTURES} images take, as 1,000. By arithmetic,
channels × height × width × 2 bytes: SAM's encoder of any size (ViT-B, -L, -H) makes 256 × 24 × 24 of a canvas of 384
pixels, the paper's, which is 0.29 GB for 1,000 images and 35 GB for COCO's 118,287; of SAM's own 1,024 pixels it makes
256 × 64 × 64, 2.10 GB and 248 GB."""
HEADER = [
    "size", "pixels", "images", "step, s", "with features, s", "times faster", "a map", "reading, ms per image",
    "disk, MB per 1,000 images",
]  # fmt: skip


def pictures(folder: Path) -> list[Shard]:
    """A shard of photo-like JPEG files."""
    rng, files = np.random.default_rng(0), []
    for _ in range(PICTURES):
        file = io.BytesIO()
        Image.fromarray(photo(rng)).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    path = folder / "pictures.tar"
    write_shard(path, ((f"{number:03d}", {"jpg": data}) for number, data in enumerate(files)))
    return [Shard(path, load_index(path))]


def steps(model: PixelLLM, size: Size) -> tuple[float, float, Tensor]:
    """Seconds of a step with the encoder and without, and the features of its images."""
    images, sizes, _, _ = inputs(model, size)
    with torch.no_grad():
        sam = model.sam_encoder(images, sizes).bfloat16()
    encoded = seconds_of(training(model, size), repeats=3)
    return encoded, seconds_of(training(model, size, sam), repeats=3), sam[0].cpu()


def cache(shards: list[Shard], out: Path, features: Tensor, pixels: int) -> tuple[float, float]:
    """Seconds to read the features of an image, and bytes that they take on the disk."""
    channels, height, width = features.shape
    producer = Producer("sam_encoder", "benchmark", pixels, channels, height, width)
    write_features(Pictures.of(shards, pixels), out, producer, lambda images, _: torch.stack([features] * len(images)))
    found, files = FeatureCache(out), list(read_field(shards, "jpg"))
    reading = cpu_seconds(lambda: [found.read(file, "") for file in files]) / len(files)
    return reading, sum(file.stat().st_size for file in out.iterdir()) / len(files)


def measure(name: str, shards: list[Shard], out: Path) -> list[object]:
    torch.manual_seed(0)
    size = SIZES[name]
    with DEVICE:
        model = size.build()
    encoded, cached, features = steps(model, size)
    reading, disk = cache(shards, out, features, size.pixels)
    say(f"   {name}: {encoded:.3g} s, with features {cached:.3g} s")
    grid = " × ".join(map(str, features.shape))
    times = [f"{encoded:.3g}", f"{cached:.3g}", f"{encoded / cached:.2f}"]
    return [name, size.pixels, size.images, *times, grid, f"{1000 * reading:.2f}", f"{disk / 1000:.1f}"]


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        shards = pictures(Path(folder))
        kilobytes = sum(map(len, read_field(shards, "jpg"))) / PICTURES / 1000
        names = [name for name in NAMES if name != "paper" or DEVICE.type == "cuda"]
        rows = [measure(name, shards, Path(folder) / name) for name in names]
    print(section("Frozen features", TEXT.format(kilobytes=kilobytes), HEADER, rows))


if __name__ == "__main__":
    main()
