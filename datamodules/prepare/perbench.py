"""PerBench -> shards of kind `perbench`; one sample for each question, so each has its own regions painted alone.

JSON part: `image`: path of the picture; `task`: description, choice or segmentation; `question` and `answer` as in the
files; `options` of a choice; `regions`: [{tag, rle}]; `inputs`, `targets`: indices of regions that are given and that
are to be segmented. Region K of a question is its <PromptK>.
"""

from pathlib import Path

from datamodules.formats.perbench import FILES, Item, read_perbench
from datamodules.formats.records import FormatError
from datamodules.formats.splits import plain_name
from datamodules.prepare.corpus import Corpus, Description, ImageWork, check_keys
from datamodules.prepare.referring_images import size_of_picture
from datamodules.prepare.report import Report

KIND = "perbench"


def open_perbench(folder: Path, images: Path | None = None) -> Corpus:
    """The questions of a folder, whose name is their `dataset_id`; TASK/NUMBER is the id of a question.

    images: folder of the pictures, to compare their sizes; None for whoever wants the truth alone.
    Raises FormatError as `read_perbench` does, and for a picture that is missing or of another size than its masks.
    """
    items = read_perbench(folder)
    if images is not None:
        _check_pictures(items, images)
    name = plain_name(folder.resolve().name)
    work = [ImageWork(name, f"{item.task}/{item.number}", item) for item in items]
    check_keys(work)
    return Corpus(KIND, [folder / file for file in FILES.values()], work, describe, Report())


def _check_pictures(items: list[Item], images: Path) -> None:
    first = {item.image: item for item in reversed(items)}
    for item in first.values():
        height, width = item.size
        found = size_of_picture(images, [item.image])
        if found is None:
            raise FormatError(f"{item.where}: {images / item.image} is no picture that can be read")
        if found != (width, height):
            sizes = f"{width} x {height} pixels, the picture {images / item.image} of {found[0]} x {found[1]}"
            raise FormatError(f"{item.where}: its masks are of {sizes}")


def describe(work: ImageWork, report: Report) -> Description:
    """The question as a sample."""
    item: Item = work.records
    report.counts["records read"] += 1
    content = {
        "task": item.task,
        "image": item.image,
        "question": item.question,
        "answer": item.answer,
        "options": item.options,
        "regions": [{"tag": region.tag, "rle": region.mask} for region in item.regions],
        "inputs": item.inputs,
        "targets": item.targets,
    }
    return Description(content, [item.image], 1, size=(item.size[1], item.size[0]))
