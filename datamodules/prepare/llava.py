"""Conversations of LLaVA's form -> shards of kind `llava`; one sample for each image, with all that is said of it.

JSON part: `turns`: [{question, answer}], those of one conversation behind another.
"""

from pathlib import Path

from datamodules.formats.llava import Conversation, read_llava
from datamodules.formats.records import BadRecord
from datamodules.prepare.corpus import Corpus, Description, ImageWork, check_file_names, check_keys
from datamodules.prepare.report import Report

KIND = "llava"


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
            if isinstance(found, BadRecord):
                report.counts["records read"] += 1
                report.skip("records", found.reason, found.where)
            else:
                conversations.setdefault(found.image, []).append(found)
        images += [ImageWork(path.stem, image, records) for image, records in conversations.items()]
    check_keys(images)
    return Corpus(KIND, files, images, describe, report)


def describe(work: ImageWork, report: Report) -> Description | None:
    """What is said of an image, without empty answers; None where nothing is left."""
    conversations: list[Conversation] = work.records
    turns, written = [], 0
    for conversation in conversations:
        report.counts["records read"] += 1
        answered = [turn for turn in conversation.turns if turn.answer.strip()]
        empty = len(conversation.turns) - len(answered)
        if empty:
            report.skip("turns", "empty answer", conversation.where, empty)
        if answered:
            turns += [vars(turn) for turn in answered]
            written += 1
        else:
            report.skip("records", "no answer", conversation.where)
    if not turns:
        return None
    return Description({"turns": turns}, [work.image_id], written)
