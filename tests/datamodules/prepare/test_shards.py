"""The shard writer: the same bytes however it was run, and going on where a run was stopped."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from datamodules.prepare import localized_narratives
from datamodules.prepare.corpus import Corpus, Description, ImageWork, annotation_files
from datamodules.prepare.report import Report
from datamodules.prepare.shards import write_shards
from datamodules.shard_index import ShardError, index_path, open_shards
from tests.datamodules.prepare.conftest import MakeCorpus, narrative, write_jsonl

Contents = Callable[[Path], dict[str, bytes]]


def corpus_of(root: Path) -> Corpus:
    return localized_narratives.open_corpus(annotation_files([str(root / "n-*.jsonl")]))


def write(root: Path, out: str, workers: int = 1, shard_size: int = 3) -> Report:
    return write_shards(corpus_of(root), root / "images", root / out, workers=workers, shard_size=shard_size)


def test_the_bytes_do_not_depend_on_the_number_of_workers(make_corpus: MakeCorpus, contents: Contents) -> None:
    root = make_corpus(10)
    (root / "images/000000000004.jpg").unlink()
    reports = [write(root, f"out-{workers}", workers) for workers in (1, 2, 5)]
    assert reports[0] == reports[1] == reports[2]
    one = contents(root / "out-1")
    names = ["manifest.json", "report.json"]
    names += [f"shard-{i:05d}.{ending}" for i in range(4) for ending in ("index.npz", "tar")]
    assert sorted(one) == sorted(names)
    assert contents(root / "out-2") == contents(root / "out-5") == one
    assert [len(index) for _, index in open_shards(root / "out-1")] == [3, 2, 3, 1]


def test_a_finished_folder_is_kept(make_corpus: MakeCorpus, contents: Contents) -> None:
    root = make_corpus(7)
    report = write(root, "out")
    before = contents(root / "out")
    written = {path.name: path.stat().st_mtime_ns for path in (root / "out").iterdir()}
    assert write(root, "out", workers=2) == report
    assert contents(root / "out") == before
    assert {path.name: path.stat().st_mtime_ns for path in (root / "out").iterdir()} == written


class PowerCut(Exception):
    pass


def stop_after(images: int) -> Callable[[int, int], None]:
    def on_progress(done: int, total: int) -> None:
        if done >= images:
            raise PowerCut

    return on_progress


@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupted_run_goes_on_behind_its_finished_shards(
    make_corpus: MakeCorpus, contents: Contents, workers: int
) -> None:
    root = make_corpus(10)
    report = write(root, "whole")
    with pytest.raises(PowerCut):
        write_shards(
            corpus_of(root), root / "images", root / "out", workers=workers, shard_size=3, on_progress=stop_after(6)
        )
    with pytest.raises(ShardError, match="has not finished"):
        open_shards(root / "out")
    notes = (root / "out/progress.jsonl").read_text().splitlines()
    finished = [root / "out" / json.loads(note)["entry"]["file"] for note in notes[1:]]
    kept = {path: path.stat().st_ino for path in finished}
    assert len(kept) == 2
    (root / "out/shard-00003.tar.part").write_bytes(b"half a shard")
    assert write(root, "out", workers) == report
    assert contents(root / "out") == contents(root / "whole")
    assert {path: path.stat().st_ino for path in finished} == kept


def test_notes_cut_short_and_shards_damaged_since_are_done_again(make_corpus: MakeCorpus, contents: Contents) -> None:
    root = make_corpus(10)
    write(root, "whole")
    with pytest.raises(PowerCut):
        write_shards(corpus_of(root), root / "images", root / "out", shard_size=3, on_progress=stop_after(9))
    os.truncate(root / "out/progress.jsonl", (root / "out/progress.jsonl").stat().st_size - 10)
    os.truncate(root / "out/shard-00000.tar", 600)
    index_path(root / "out/shard-00001.tar").unlink()
    write(root, "out")
    assert contents(root / "out") == contents(root / "whole")


def test_a_shard_damaged_after_the_end_is_made_again(make_corpus: MakeCorpus, contents: Contents) -> None:
    root = make_corpus(7)
    write(root, "out")
    before = contents(root / "out")
    os.truncate(root / "out/shard-00001.tar", 600)
    write(root, "out")
    assert contents(root / "out") == before


def test_other_settings_in_the_same_folder_are_refused_and_named(make_corpus: MakeCorpus) -> None:
    root = make_corpus(4)
    write(root, "out")
    with pytest.raises(ShardError, match=r"out was begun with other settings \(shard_size 3 there, 2 here\)"):
        write(root, "out", shard_size=2)
    with pytest.raises(PowerCut):
        write_shards(corpus_of(root), root / "images", root / "begun", shard_size=3, on_progress=stop_after(3))
    write_jsonl(root / "n-1.jsonl", [narrative("0")])
    for folder in ("out", "begun"):
        with pytest.raises(ShardError, match=r"\(annotations .* there, .* here\): choose another folder"):
            write(root, folder)


def test_a_shard_without_a_usable_image_leaves_no_file(make_corpus: MakeCorpus) -> None:
    root = make_corpus(9)
    for i in (3, 4, 5):
        (root / f"images/{i:012d}.jpg").unlink()
    report = write(root, "out")
    assert [tar.name for tar, _ in open_shards(root / "out")] == ["shard-00000.tar", "shard-00002.tar"]
    assert not list((root / "out").glob("*00001*"))
    assert (report.counts["images written"], report.total_skipped("images")) == (6, 3)
    assert (report.counts["records written"], report.total_skipped("records")) == (12, 6)


def test_not_one_usable_image_is_an_error_that_does_not_block_the_folder(make_corpus: MakeCorpus) -> None:
    root = make_corpus(3)
    (root / "elsewhere").mkdir()
    corpus = corpus_of(root)
    corpus.report.skip("records", "empty caption", "captions.json: annotation 9")
    with pytest.raises(ShardError) as raised:
        write_shards(corpus, root / "elsewhere", root / "out")
    assert str(raised.value) == (
        f"{root}/out: nothing could be converted: image not found (3 images, 6 records), such as "
        f"{root}/elsewhere/train2017/000000000000.jpg; empty caption (1 records), such as captions.json: annotation 9"
    )
    assert write(root, "out").counts["images written"] == 3


def test_annotations_without_a_record_are_an_error(make_corpus: MakeCorpus) -> None:
    root = make_corpus(0)
    with pytest.raises(ShardError, match="there are no records"):
        write(root, "out")


def test_a_missing_image_folder_is_named(make_corpus: MakeCorpus) -> None:
    root = make_corpus(1)
    with pytest.raises(ShardError, match=r"no image folder .*nowhere"):
        write_shards(corpus_of(root), root / "nowhere", root / "out")


def die_once(image: ImageWork, report: Report) -> Description | None:
    """Kills its process at the fifth image, the first time."""
    mark: Path = image.records["mark"]
    if image.image_id == "5" and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), 9)
    return localized_narratives.describe(ImageWork(image.dataset_id, image.image_id, image.records["places"]), report)


def test_a_killed_worker_is_said_in_one_line_and_the_next_run_goes_on(
    make_corpus: MakeCorpus, contents: Contents
) -> None:
    root = make_corpus(10)
    write(root, "whole", shard_size=2)
    corpus = corpus_of(root)
    images = [
        ImageWork(image.dataset_id, image.image_id, {"places": image.records, "mark": root / "died"})
        for image in corpus.images
    ]
    fragile = Corpus(corpus.kind, corpus.files, images, die_once, corpus.report)
    with pytest.raises(ShardError, match=r"a worker process died .* run the same command again to go on"):
        write_shards(fragile, root / "images", root / "out", workers=2, shard_size=2)
    write_shards(fragile, root / "images", root / "out", workers=2, shard_size=2)
    assert contents(root / "out") == contents(root / "whole")


def test_the_report_adds_up_and_is_written(make_corpus: MakeCorpus) -> None:
    root = make_corpus(8)
    (root / "images/000000000002.jpg").write_bytes(b"no image")
    with (root / "n-1.jsonl").open("a") as file:
        file.write('{"dataset_id": "x"\n')
    report = write(root, "out", workers=2)
    assert Report.from_json(json.loads((root / "out/report.json").read_bytes())) == report
    counts = report.counts
    assert counts["records read"] == 17 == counts["records written"] + report.total_skipped("records")
    assert counts["images read"] == 8 == counts["images written"] + report.total_skipped("images")
    assert str(root / "images/000000000002.jpg") in "\n".join(report.lines())
    assert report.skipped["records"]["broken JSON"].examples == [f"{root / 'n-1.jsonl'}:9"]
