"""The subcommands of `pixel-llm prepare`: raw annotations and images -> folders of shards."""

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain, cycle
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from datamodules.chat_text import form_words
from datamodules.dialogue_forms import FORMS
from datamodules.formats.perbench import FILES
from datamodules.formats.records import FormatError
from datamodules.formats.referring import ReferringSplit
from datamodules.formats.regions import RegionSplit, RegionSplits
from datamodules.formats.visual_genome import read_image_data, read_region_descriptions, read_splits
from datamodules.prepare import coco_captions, coco_instances, llava, localized_narratives, regions
from datamodules.prepare.corpus import Corpus, annotation_files, annotation_paths
from datamodules.prepare.leaking_images import LeakingImages, check_leaks, evaluation_pictures
from datamodules.prepare.merge import merge_parts
from datamodules.prepare.perbench import open_perbench
from datamodules.prepare.progress import WHOLE, Part
from datamodules.prepare.referring import split_corpus
from datamodules.prepare.referring_checks import check_published, name_coco_pictures
from datamodules.prepare.referring_corpora import read_referring
from datamodules.prepare.region_corpora import read_regions
from datamodules.prepare.region_text import MAX_WORDS, MIN_USES, UNKNOWN, apply_benchmark_text
from datamodules.prepare.regions import ImageFolders
from datamodules.prepare.report import Report
from datamodules.prepare.shards import IMAGES_PER_SHARD, begin, write_shards
from datamodules.prepare.toy_world.write import write_toy_world
from datamodules.records import WORDED, read_field, read_texts
from datamodules.shard_index import MANIFEST, ShardError, load_index, open_shards, write_index
from datamodules.tokenizer import train_tokenizer
from pixel_llm.messages import one_line
from pixel_llm.whole_files import write_whole

# What a person can do something about: told in one line, without a traceback.
_EXPECTED = (ShardError, FormatError, OSError)
_BAD_INPUT = 2
_INTERRUPTED = 130

_COLUMNS = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong with the arguments in one line, without the usage text."""

    def error(self, message: str) -> NoReturn:
        self.exit(_BAD_INPUT, f"{self.prog}: {message} (--help shows the options)\n")


def add_prepare_commands(subparsers: Any) -> None:
    """Adds every subcommand to what `add_subparsers` returned; `args.handler(args)` then returns the exit code."""
    _add_converter(
        subparsers,
        "localized-narratives",
        localized_narratives.open_corpus,
        "Localized Narratives jsonl: narratives with word times and mouse traces",
    )
    _add_converter(subparsers, "coco-captions", coco_captions.open_corpus, "COCO captions json: captions of each image")
    _add_converter(
        subparsers,
        "coco-instances",
        coco_instances.open_corpus,
        "COCO instances json: boxes and masks of each image's objects",
    )
    _add_converter(subparsers, "llava", llava.open_corpus, "conversations about images, of LLaVA or ShareGPT4V")
    _add_texts(subparsers)
    _add_referring(subparsers, "refcoco", "refs and instances of RefCOCO, RefCOCO+, RefCOCOg or gRefCOCO, by folder")
    _add_referring(subparsers, "referring", "referring expressions of any form, recognised by its content")
    _add_visual_genome(subparsers)
    _add_regions(subparsers)
    _add_perbench(subparsers)
    _add_merge(subparsers)
    _add_index(subparsers)
    _add_toy(subparsers)
    _add_tokenizer(subparsers)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one subcommand; returns the exit code."""
    parser = OneLineParser(
        prog="pixel-llm prepare",
        description=__doc__,
        epilog="One more, `pixel-llm prepare features`, needs a model: it computes what the frozen image encoder makes "
        "of the images of a training configuration.",
    )
    add_prepare_commands(parser.add_subparsers(required=True, metavar="COMMAND"))
    args = parser.parse_args(arguments)
    if "part" in args:
        args.part = asked_part(parser, args.part, args.of)
    return args.handler(args)


def _add_converter(subparsers: Any, name: str, open_corpus: Callable[[list[Path]], Corpus], summary: str) -> None:
    parser = subparsers.add_parser(name, help=summary, description=summary)
    _add_sources(parser, "annotation files; patterns are expanded")
    parser.set_defaults(handler=lambda args: _guarded(lambda: _convert(args, open_corpus), args.out))


def _add_texts(subparsers: Any) -> None:
    summary = "conversations of LLaVA's form about no image, which `llava` leaves out"
    parser = subparsers.add_parser("conversations", help=summary, description=summary)
    parser.add_argument(
        "--annotations", nargs="+", required=True, metavar="GLOB", help="annotation files; patterns are expanded"
    )
    _add_output(parser)
    parser.set_defaults(images=Path("/"))  # none is looked for
    parser.set_defaults(handler=lambda args: _guarded(lambda: _convert(args, llava.open_texts), args.out))


def _add_referring(subparsers: Any, name: str, summary: str) -> None:
    parser = subparsers.add_parser(name, help=summary, description=summary)
    _add_sources(parser, "annotation files or their folders; patterns are expanded")
    _add_leaks(parser, "annotations or shards")
    parser.add_argument(
        "--vg-image-data",
        type=Path,
        metavar="FILE",
        help="image_data.json of Visual Genome, which tells the photos that are COCO's",
    )
    _add_split(parser)
    parser.set_defaults(handler=lambda args: _guarded(lambda: _convert_referring(args), args.out))


def _add_visual_genome(subparsers: Any) -> None:
    summary = "Visual Genome's region descriptions: the regions of each image with their phrases"
    parser = subparsers.add_parser("visual-genome", help=summary, description=summary)
    parser.add_argument("--regions", nargs="+", required=True, metavar="GLOB", help="region_descriptions.json")
    parser.add_argument(
        "--image-data",
        nargs="+",
        default=[],
        metavar="GLOB",
        help="image_data.json: which photos are COCO's, and the sizes that boxes were made for; without it those of "
        "the images",
    )
    splits = parser.add_mutually_exclusive_group()
    splits.add_argument(
        "--splits",
        type=Path,
        metavar="FILE",
        help="densecap_splits.json: the images of each split; without it all are for training",
    )
    _add_split(splits)
    _add_region_options(parser)
    parser.set_defaults(handler=lambda args: _guarded(lambda: _convert_regions(args, _read_visual_genome), args.out))


def _add_regions(subparsers: Any) -> None:
    summary = "regions with phrases in COCO's form or as JSON lines"
    parser = subparsers.add_parser("regions", help=summary, description=summary)
    parser.add_argument("--annotations", nargs="+", required=True, metavar="GLOB", help=".json or .jsonl files")
    _add_split(parser)
    _add_region_options(parser)
    parser.set_defaults(handler=lambda args: _guarded(lambda: _convert_regions(args, _read_regions), args.out))


def _add_perbench(subparsers: Any) -> None:
    summary = "PerBench: detailed descriptions, multiple choice and segmentation by words and regions"
    parser = subparsers.add_parser("perbench", help=summary, description=summary)
    parser.add_argument(
        "--annotations", type=Path, required=True, metavar="DIR", help=f"folder that holds {', '.join(FILES.values())}"
    )
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="folder that holds the images")
    _add_output(parser)
    parser.set_defaults(handler=lambda args: _guarded(lambda: _convert_perbench(args), args.out))


def _add_region_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--images",
        type=Path,
        nargs="+",
        required=True,
        metavar="DIR",
        help="folders that hold the images, such as VG_100K VG_100K_2; each is looked into",
    )
    parser.add_argument(
        "--benchmark-text",
        action="store_true",
        help=f"the text of the dense-captioning benchmark: lower case, no punctuation, at most {MAX_WORDS} words, "
        f"words that occur fewer than {MIN_USES} times in all splits together as {UNKNOWN}",
    )
    _add_leaks(parser, "shards, or annotations of referring data,")
    _add_output(parser)


def _add_split(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--split", metavar="NAME", help="put everything into one split of this name, such as my_train")


def _add_leaks(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument(
        "--evaluation",
        nargs="+",
        default=[],
        metavar="GLOB",
        help=f"{what} whose images must not be trained on, beside the evaluation splits converted here",
    )
    parser.add_argument(
        "--leaking-images",
        type=LeakingImages,
        choices=list(LeakingImages),
        default=LeakingImages.REFUSE,
        help="what to do with training images that an evaluation split holds too (default: %(default)s)",
    )


def _add_sources(parser: argparse.ArgumentParser, annotations: str) -> None:
    parser.add_argument("--annotations", nargs="+", required=True, metavar="GLOB", help=annotations)
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="folder that holds the images")
    _add_output(parser)


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write the shards to")
    parser.add_argument(
        "--workers",
        type=_positive,
        default=_cores(),
        metavar="N",
        help="processes, each making whole shards; the result does not depend on it (default: one per core)",
    )
    parser.add_argument(
        "--shard-size",
        type=_positive,
        default=IMAGES_PER_SHARD,
        metavar="N",
        help="images per shard (default: %(default)s)",
    )
    add_part(parser, "convert only the I-th share of the images, counted from 0; all may run at once; then `merge`")


def _add_merge(subparsers: Any) -> None:
    summary = "make finished folders of shards of a conversion in parts, when all of them are there"
    parser = subparsers.add_parser("merge", help=summary, description=summary)
    parser.add_argument("folder", type=Path, metavar="DIR", help="what the parts had as --out")
    parser.set_defaults(handler=lambda args: _guarded(lambda: _merge(args.folder), args.folder))


def _add_index(subparsers: Any) -> None:
    summary = "write the index of every tar in a folder that has none, or one that does not fit"
    parser = subparsers.add_parser("index", help=summary, description=summary)
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.set_defaults(handler=lambda args: _guarded(lambda: _index(args.folder), args.folder))


def _cores() -> int:
    """The cores that this process may use; a cluster gives a job fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _add_toy(subparsers: Any) -> None:
    summary = "write a small world of coloured shapes as raw data sets in the official formats"
    parser = subparsers.add_parser("toy", help=summary, description=summary)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write the data sets to")
    parser.add_argument("--train", type=_positive, default=6000, metavar="N", help="training images (%(default)s)")
    parser.add_argument("--val", type=_positive, default=200, metavar="N", help="validation images (%(default)s)")
    parser.add_argument(
        "--test", type=_positive, default=400, metavar="N", help="images of each of the two test splits (%(default)s)"
    )
    parser.add_argument("--seed", type=_natural, default=0, metavar="N")
    parser.add_argument("--workers", type=_positive, default=_cores(), metavar="N")
    parser.set_defaults(handler=lambda args: _guarded(lambda: _toy(args), args.out))


def _add_tokenizer(subparsers: Any) -> None:
    summary = "make a tokenizer from the texts in shards, for text that no released tokenizer fits"
    parser = subparsers.add_parser("tokenizer", help=summary, description=summary)
    parser.add_argument("shards", nargs="+", type=Path, metavar="DIR", help="folders of shards with texts")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write tokenizer.json to")
    dialogues = "also the wording of the questions and answers of Pixel-SAIL, as often as there are texts"
    parser.add_argument("--dialogues", action="store_true", help=dialogues)
    parser.add_argument("--vocabulary-size", type=_positive, default=8000, metavar="N", help="at most (%(default)s)")
    parser.set_defaults(handler=lambda args: _guarded(lambda: _tokenizer(args), args.out))


def _natural(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def add_part(parser: argparse.ArgumentParser, summary: str) -> None:
    """The arguments of a share of the work, for `asked_part`."""
    parser.add_argument("--part", type=_natural, metavar="I", help=summary)
    parser.add_argument("--of", type=_positive, metavar="N", help="how many parts there are")


def asked_part(parser: argparse.ArgumentParser, number: int | None, of: int | None) -> Part:
    """What --part and --of ask for; ends the program where they do not fit each other."""
    if number is None and of is None:
        return WHOLE
    if number is None or of is None:
        parser.error("--part and --of go together")
    if number >= of:
        parser.error(f"--part {number} --of {of}: parts are counted from 0 to {of - 1}")
    return Part(number, of)


def progress_bar() -> Progress:
    """A progress bar on a terminal, nothing elsewhere.

    Without its refresh thread it cannot be in the middle of something when the workers are forked.
    """
    console = Console(stderr=True)
    return Progress(*_COLUMNS, console=console, auto_refresh=False, transient=True, disable=not console.is_terminal)


def _guarded(run: Callable[[], None], folder: Path) -> int:
    """Exit code of a run: one line on the error stream for what a person can do something about."""
    try:
        run()
    except _EXPECTED as error:
        sys.stderr.write(f"pixel-llm prepare: {one_line(error)}\n")
        return _BAD_INPUT
    except KeyboardInterrupt:
        sys.stderr.write(f"pixel-llm prepare: interrupted; the same command goes on in {folder}\n")
        return _INTERRUPTED
    return 0


def _convert(args: argparse.Namespace, open_corpus: Callable[[list[Path]], Corpus]) -> None:
    files = annotation_files(args.annotations)
    with progress_bar() as bar:
        bar.add_task("reading annotations", total=None)
        bar.refresh()
        corpus = open_corpus(files)
    _say(_write(corpus, args, args.images, args.out), args.out, args)


def _convert_perbench(args: argparse.Namespace) -> None:
    _say(_write(open_perbench(args.annotations, args.images), args, args.images, args.out), args.out, args)


def _convert_referring(args: argparse.Namespace) -> None:
    """Writes one folder of shards below --out for each split that the annotations hold."""
    with progress_bar() as bar:
        bar.add_task("reading annotations", total=None)
        bar.refresh()
        splits = read_referring(annotation_paths(args.annotations), args.split)
        notes = _check_referring(args, splits)
    corpora = {split.name: split_corpus(split, args.images, notes[split.name]) for split in splits}
    _write_splits(corpora, args, args.images)


def _check_referring(args: argparse.Namespace, splits: list[ReferringSplit]) -> dict[str, list[str]]:
    """What the checks say of each split; images that must not be there are gone, or refused before a shard is made."""
    known = read_image_data([args.vg_image_data] if args.vg_image_data else [])
    notes = {split.name: [*check_published(split), *name_coco_pictures(split, known)] for split in splits}
    pictures = evaluation_pictures(splits, annotation_paths(args.evaluation))
    for split in splits:
        notes[split.name] += check_leaks(split, pictures, args.leaking_images)
    return notes


def _convert_regions(
    args: argparse.Namespace, read: Callable[[argparse.Namespace], tuple[list[RegionSplit], list[str]]]
) -> None:
    """Writes one folder of shards below --out for each split that the annotations hold."""
    folders = ImageFolders.of(args.images)
    with progress_bar() as bar:
        bar.add_task("reading annotations", total=None)
        bar.refresh()
        splits, said = read(args)
        texts = apply_benchmark_text(splits) if args.benchmark_text else {}
        pictures = evaluation_pictures(splits, annotation_paths(args.evaluation))
        corpora = {}
        for split in splits:
            notes = [*said, *texts.get(split.name, []), *check_leaks(split, pictures, args.leaking_images)]
            corpora[split.name] = regions.split_corpus(split, folders, notes)
            said = []  # of all splits: once will do
    _write_splits(corpora, args, folders.root)


def _read_visual_genome(args: argparse.Namespace) -> tuple[list[RegionSplit], list[str]]:
    """The splits, and what a person should know of all of them."""
    image_data = read_image_data(annotation_files(args.image_data))
    parts = read_splits(args.splits) if args.splits else None
    splits = RegionSplits(args.split)
    in_none = [read_region_descriptions(path, splits, image_data, parts) for path in annotation_files(args.regions)]
    return splits.all(), [f"{sum(in_none):,} images are in no split of {args.splits}"] if any(in_none) else []


def _read_regions(args: argparse.Namespace) -> tuple[list[RegionSplit], list[str]]:
    return read_regions(annotation_files(args.annotations), args.split), []


def _write_splits(corpora: Mapping[str, Corpus], args: argparse.Namespace, images: Path) -> None:
    """Writes the shards of each split to a folder of its name, and what became of it to the screen."""
    for name, corpus in corpora.items():  # so that a merge knows of a split that a part never came to
        if args.part.of > 1 and not (args.out / name / MANIFEST).exists():
            begin(corpus, images, args.out / name, shard_size=args.shard_size, part=args.part)
    for name, corpus in corpora.items():
        _say(_write(corpus, args, images, args.out / name), args.out / name, args, name)


def _write(corpus: Corpus, args: argparse.Namespace, images: Path, out: Path) -> Report:
    with progress_bar() as bar:
        task = bar.add_task("images", total=None)
        return write_shards(
            corpus,
            images,
            out,
            workers=args.workers,
            shard_size=args.shard_size,
            part=args.part,
            on_progress=lambda done, total: bar.update(task, completed=done, total=total, refresh=True),
        )


def _say(report: Report, out: Path, args: argparse.Namespace, name: str = "") -> None:
    """What became of a conversion or a part of it; name: of the split."""
    if args.part.of > 1 and (out / MANIFEST).exists():
        sys.stdout.write(f"{out} is finished, all parts of it: nothing was left to do for {args.part}\n")
        return
    lines = [name, *(f"  {line}" for line in report.lines())] if name else report.lines()
    last = f"shards in {out}"
    if args.part.of > 1:
        last = f"{args.part} of the {last}; when all parts are done: pixel-llm prepare merge {args.out}"
    sys.stdout.write("\n".join([*lines, last]) + "\n")


def _merge(folder: Path) -> None:
    for out, report in merge_parts(folder).items():
        sys.stdout.write("\n".join([*report.lines(), f"shards in {out}"]) + "\n")


def _toy(args: argparse.Namespace) -> None:
    sizes = {"train": args.train, "val": args.val, "test": args.test, "test_unseen_pairs": args.test}
    with progress_bar() as bar:

        def progress(items: Iterable[Any], total: int, description: str) -> Iterable[Any]:
            return bar.track(items, total=total, description=description)

        write_toy_world(args.out, sizes, args.seed, args.workers, progress)
    sys.stdout.write(f"toy world of {sum(sizes.values()):,} images in {args.out}\n")


def _tokenizer(args: argparse.Namespace) -> None:
    shards = [shard for folder in args.shards for shard in open_shards(folder, WORDED)]
    texts: Iterable[str] = (text for data in read_field(shards, "json") for text in read_texts(data))
    if args.dialogues:
        spoken = [words for form in FORMS for words in form_words(form)]
        texts = chain(spoken, chain.from_iterable(zip(texts, cycle(spoken), strict=False)))
    tokenizer = train_tokenizer(texts, args.vocabulary_size)
    args.out.mkdir(parents=True, exist_ok=True)
    write_whole(args.out / "tokenizer.json", tokenizer.to_json().encode())
    sys.stdout.write(f"tokenizer of {tokenizer.vocabulary_size} tokens in {args.out}\n")


def _index(folder: Path) -> None:
    tars = sorted(folder.glob("*.tar"))
    if not tars:
        raise ShardError(f"no tar in {folder}")
    written = 0
    for tar in tars:
        try:
            load_index(tar)
        except ShardError:
            write_index(tar)
            written += 1
    sys.stdout.write(f"indexes written: {written} of {len(tars)} shards in {folder}\n")


if __name__ == "__main__":
    sys.exit(main())
