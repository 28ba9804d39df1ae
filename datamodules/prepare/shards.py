"""The engine of all converters: a corpus and a folder of images -> a folder of shards.

Which image goes into which shard depends on the corpus and the shard size alone, and every shard is made by one
function of its images, so the bytes are the same for any number of workers, and for a conversion in parts. A run that
was stopped goes on behind the shards that it had finished.
"""

import io
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from datamodules.prepare.corpus import Corpus, Describe, Description, ImageWork, compact_json, content_of
from datamodules.prepare.images import ImageError, StoredImage, to_jpeg
from datamodules.prepare.progress import WHOLE, Conversion, FinishedShard, Part, Progress, finished_report
from datamodules.prepare.report import Report
from datamodules.prepare.workers import check_stop, in_order_of_completion
from datamodules.shard_index import ShardEntry, ShardError, write_index

IMAGES_PER_SHARD = 1000

# Called with the images dealt with and the images in all.
OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class ShardWork:
    """Everything that a worker needs to make one shard."""

    number: int
    path: Path
    images: Sequence[ImageWork]
    describe: Describe
    folder: Path
    samples: str


def write_shards(
    corpus: Corpus,
    folder: Path,
    out: Path,
    *,
    workers: int = 1,
    shard_size: int = IMAGES_PER_SHARD,
    part: Part = WHOLE,
    on_progress: OnProgress = lambda done, total: None,
) -> Report:
    """Converts the images of a corpus, which lie in `folder`, to shards in `out`, and says what became of them.

    Of one part of several only its shards are made; `merge_parts` then makes a finished folder of them all, and only
    then it is known whether any image could be converted. Shards that an earlier run with the same settings finished
    are kept. Raises ShardError where there is no image folder, where `out` was begun with other settings, where not
    one image could be converted, and where a worker process was killed.
    """
    settings = _settings(corpus, folder, shard_size)
    report = finished_report(out, settings, part)
    if report is None:
        progress = begin(corpus, folder, out, shard_size=shard_size, part=part)
        numbers = part.shards(progress.conversion.shards)
        total = sum(len(range(len(corpus.images))[_images_of(number, shard_size)]) for number in numbers)
        on_progress(_done(progress, corpus), total)
        for shard in in_order_of_completion(_write_shard, _missing(corpus, folder, shard_size, progress), workers):
            progress.note(shard)
            on_progress(_done(progress, corpus), total)
        report = progress.finish() if part.of == 1 else progress.report()
        on_progress(total, total)
    return report


def begin(corpus: Corpus, folder: Path, out: Path, *, shard_size: int = IMAGES_PER_SHARD, part: Part) -> Progress:
    """Notes in `out` that a conversion, or a part of it, has begun; `write_shards` goes on from there.

    Raises ShardError as `write_shards` does.
    """
    if not folder.is_dir():
        raise ShardError(f"no image folder {folder}")
    out.mkdir(parents=True, exist_ok=True)
    shards = -(-len(corpus.images) // shard_size)
    return Progress.open(out, Conversion(_settings(corpus, folder, shard_size), shards, corpus.report), part)


def _done(progress: Progress, corpus: Corpus) -> int:
    return sum(shard.report.counts[f"{corpus.samples} read"] for shard in progress.finished.values())


def _images_of(number: int, shard_size: int) -> slice:
    return slice(number * shard_size, (number + 1) * shard_size)


def _settings(corpus: Corpus, folder: Path, shard_size: int) -> dict[str, Any]:
    return {
        "annotations": content_of(corpus.files),
        "images": str(folder.resolve()),
        "kind": corpus.kind,
        "shard_size": shard_size,
        **corpus.settings,
    }


def _missing(corpus: Corpus, folder: Path, shard_size: int, progress: Progress) -> Iterator[ShardWork]:
    """The shards that are not noted as finished, in order."""
    for number in progress.part.shards(progress.conversion.shards):
        if number not in progress.finished:
            path = progress.folder / f"shard-{number:05d}.tar"
            images = corpus.images[_images_of(number, shard_size)]
            yield ShardWork(number, path, images, corpus.describe, folder, corpus.samples)


def _write_shard(work: ShardWork) -> FinishedShard:
    """Makes one shard: whole under its name, with an index, or not at all."""
    report = Report()
    entry = write_shard(work.path, ((image.key, _sample(image, work, report)) for image in work.images))
    return FinishedShard(work.number, entry, report)


def write_shard(path: Path, samples: Iterable[tuple[str, dict[str, bytes]]]) -> ShardEntry:
    """Writes samples (key, fields) as a tar and its index: whole under its name, or not at all.

    Samples without fields are left out; where none is left there is no file.
    """
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            written = _write_tar(file, samples)
            file.flush()
            os.fsync(file.fileno())
        if not written:
            return ShardEntry(path.name, 0, 0)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return ShardEntry(path.name, written, write_index(path).tar_bytes)


def _write_tar(file: BinaryIO, samples: Iterable[tuple[str, dict[str, bytes]]]) -> int:
    """Writes the samples that have fields and returns how many there are."""
    written = 0
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for key, fields in samples:
            written += bool(fields)
            for name, data in fields.items():
                member = tarfile.TarInfo(f"{key}.{name}")  # no owner and no time: equal content, equal bytes
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return written


def _sample(image: ImageWork, work: ShardWork, report: Report) -> dict[str, bytes]:
    """The fields of one image's sample; none where it cannot be made, which the report then says."""
    check_stop()
    report.counts[f"{work.samples} read"] += 1
    description = work.describe(image, report)
    if description is None:
        report.skip(work.samples, "no usable record", f"{image.dataset_id} {image.image_id}")
        return {}
    names = {"dataset_id": image.dataset_id, "image_id": image.image_id}
    if not description.image_paths:
        report.counts[f"{work.samples} written"] += 1
        report.counts["records written"] += description.records
        return {"json": compact_json({**names, **description.content}), **description.arrays}
    try:
        stored = _picture(work.folder, image, description)
    except _Unusable as error:
        report.skip("images", error.reason, str(error))
        report.skip("records", error.reason, str(error), description.records)
        return {}
    report.counts.update(["images written", f"images {stored.change}"])
    report.counts["records written"] += description.records
    content = {**names, "width": stored.width, "height": stored.height, **description.content}
    return {"jpg": stored.jpeg, "json": compact_json(content), **description.arrays}


class _Unusable(Exception):
    """An image without a picture for its sample; reason in the same words for every such image."""

    def __init__(self, reason: str, example: str) -> None:
        super().__init__(example)
        self.reason = reason


def _picture(folder: Path, image: ImageWork, description: Description) -> StoredImage:
    path = next((path for path in description.image_paths if os.path.isfile(folder / path)), None)
    if path is None:
        raise _Unusable("image not found", f"{folder / description.image_paths[0]}")
    try:
        stored = to_jpeg(folder / path)
    except ImageError as error:
        raise _Unusable("image broken", str(error)) from error
    found = (stored.width, stored.height)
    if description.size not in (None, found):
        sizes = f"is {found} but its annotations are for {description.size}"
        raise _Unusable("image of another size than annotated", f"{folder / path} {sizes}")
    return stored
