"""Conversations of LLaVA's form -> shards of kind `llava`; one sample for each image, with all that is said of it.

JSON part: `turns`: [{question, answer}], those of one conversation behind another; where they name regions of the
image, `regions`: [{size, counts}], their run-length encodings, of which the texts name the first <region1>.

The conversations about no picture, which stand among the others, become shards of kind `conversations`, each a sample
of its own with `turns` alone.
"""

from pathlib import Path

from datamodules.formats.llava import REGION, Conversation, read_llava
from datamodules.formats.masks import Rle, compressed_rle
from datamodules.formats.records import BadRecord, RecordError
from datamodules.formats.splits import Size
from datamodules.prepare.corpus import Corpus, Description, ImageWork, check_file_names, check_keys
from datamodules.prepare.report import Report

KIND, TEXT_KIND = "llava", "conversations"
_WITHOUT, _WITH = "a conversation without an image", "a conversation about an image"


def open_corpus(files: list[Path]) -> Corpus:
    """First reading; a file's stem (`llava_v1_5_mix665k`) is the `dataset_id` of its images, their path their id.

    Raises FormatError for a file of another format and ShardError for two files of one name or two images of one key.
    """
    report = Report()
    images: list[ImageWork] = []
    check_file_names(files)
    for path in files:
        conversations: dict[str, list[Conversation]] = {}
        for found in read_llava(path):
            if isinstance(found, BadRecord) or found.image is None:
                report.counts["records read"] += 1
                report.skip("records", found.reason if isinstance(found, BadRecord) else _WITHOUT, found.where)
            else:
                conversations.setdefault(found.image, []).append(found)
        images += [ImageWork(path.stem, image, records) for image, records in conversations.items()]
    check_keys(images)
    return Corpus(KIND, files, images, describe, report)


def open_texts(files: list[Path]) -> Corpus:
    """Those about no picture, by their numbers in the file; otherwise as `open_corpus`."""
    report = Report()
    texts: list[ImageWork] = []
    check_file_names(files)
    for path in files:
        for number, found in enumerate(read_llava(path)):
            if isinstance(found, BadRecord) or found.image is not None:
                report.counts["records read"] += 1
                report.skip("records", found.reason if isinstance(found, BadRecord) else _WITH, found.where)
            else:
                texts.append(ImageWork(path.stem, str(number), [found]))
    check_keys(texts)
    return Corpus(TEXT_KIND, files, texts, describe, report, samples="texts")


def describe(work: ImageWork, report: Report) -> Description | None:
    """What is said of an image, or of none, without empty answers; None where nothing is left."""
    conversations: list[Conversation] = work.records
    pictures = [conversation.image for conversation in conversations[:1] if conversation.image]
    turns, regions, written = [], list[Rle](), 0
    size = next((conversation.size for conversation in conversations if conversation.size), None)
    for conversation in conversations:
        report.counts["records read"] += 1
        try:
            named = _regions(conversation, size)
        except RecordError as error:
            report.skip("records", str(error), conversation.where)
            continue
        answered = [turn for turn in conversation.turns if turn.answer.strip()]
        empty = len(conversation.turns) - len(answered)
        if empty:
            report.skip("turns", "empty answer", conversation.where, empty)
        if answered:
            turns += [{k: _renumbered(said, len(regions)) for k, said in vars(turn).items()} for turn in answered]
            regions += named
            written += 1
        else:
            report.skip("records", "no answer", conversation.where)
    if not turns:
        return None
    content = {"turns": turns, "regions": regions} if regions else {"turns": turns}
    return Description(content, pictures, written, size=size)


def _regions(conversation: Conversation, size: Size | None) -> list[Rle]:
    if size is None or conversation.size is None:
        return []
    if conversation.size != size:
        raise RecordError("regions for another size of the image than those of an earlier record")
    return [compressed_rle(region, size[1], size[0]) for region in conversation.regions]


def _renumbered(said: str, first: int) -> str:
    """A text whose regions stand behind so many others."""
    return REGION.sub(lambda name: f"<region{int(name[1]) + first}>", said) if first else said
