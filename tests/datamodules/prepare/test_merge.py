"""Conversions in parts: together they are, byte for byte, the conversion in one go, and nothing less passes."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import webdataset as wds

from datamodules.prepare.command import main
from datamodules.shard_index import ShardError, index_path, open_shards
from tests.datamodules.prepare.conftest import MakeCorpus, write_jsonl

Contents = Callable[[Path], dict[str, bytes]]


def arguments(root: Path, out: str, *more: str) -> list[str]:
    command = ["localized-narratives", "--annotations", f"{root}/n-*.jsonl", "--images", f"{root}/images"]
    return [*command, "--out", f"{root}/{out}", "--workers", "1", "--shard-size", "2", *more]


def convert(root: Path, out: str, part: int | None = None, of: int | None = None, *more: str) -> int:
    share = [] if part is None else ["--part", str(part), "--of", str(of)]
    return main(arguments(root, out, *share, *more))


@pytest.fixture
def root(make_corpus: MakeCorpus) -> Path:
    """13 images: one broken, the two of one shard missing; and a line that is no record."""
    root = make_corpus(13)
    (root / "images/000000000001.jpg").write_bytes(b"no image")
    for i in (6, 7):
        (root / f"images/{i:012d}.jpg").unlink()
    with (root / "n-1.jsonl").open("a") as file:
        file.write('{"dataset_id": "x"\n')
    return root


@pytest.mark.parametrize("of", [2, 3, 16])
def test_parts_in_any_order_are_the_conversion_in_one_go(root: Path, contents: Contents, of: int) -> None:
    assert convert(root, "whole") == 0
    for part in reversed(range(of)):
        assert convert(root, "out", part, of) == 0
    with pytest.raises(ShardError, match="are not merged: run `pixel-llm prepare merge "):
        open_shards(root / "out")
    assert main(["merge", str(root / "out")]) == 0
    assert contents(root / "out") == contents(root / "whole")
    keys = [s["__key__"] for tar, _ in open_shards(root / "out") for s in wds.WebDataset(str(tar), shardshuffle=False)]
    assert keys == [f"mscoco_train2017_{i}" for i in range(13) if i not in (1, 6, 7)]


def test_parts_that_run_at_the_same_time(root: Path, contents: Contents) -> None:
    command = [sys.executable, "-m", "datamodules.prepare.command"]
    runs = [subprocess.Popen([*command, *arguments(root, "out", "--part", str(i), "--of", "3")]) for i in range(3)]
    assert [run.wait(60) for run in runs] == [0, 0, 0]
    assert main(["merge", str(root / "out")]) == 0
    convert(root, "whole")
    assert contents(root / "out") == contents(root / "whole")


def test_a_part_says_what_it_did_and_what_comes_next(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    convert(root, "out", 1, 3)
    said = capsys.readouterr().out
    assert "images read: 4\n" in said  # shards 1 and 4 of seven
    assert said.endswith(f"part 1 of 3 of the shards in {root}/out; when all parts are done: pixel-llm prepare merge "
                         f"{root}/out\n")  # fmt: skip


def test_a_part_goes_on_behind_its_finished_shards(root: Path, contents: Contents) -> None:
    convert(root, "whole")
    convert(root, "out", 0, 2)
    convert(root, "out", 1, 2)
    notes = root / "out/progress-00001-of-00002.jsonl"
    notes.write_text("".join(notes.read_text().splitlines(keepends=True)[:2]))  # as if stopped behind shard 1
    kept = (root / "out/shard-00001.tar").stat().st_ino
    assert main(["merge", str(root / "out")]) == 2
    convert(root, "out", 1, 2)
    assert (root / "out/shard-00001.tar").stat().st_ino == kept
    assert main(["merge", str(root / "out")]) == 0
    assert contents(root / "out") == contents(root / "whole")


def test_a_part_of_a_finished_conversion_says_so_in_one_line(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    convert(root, "out")
    capsys.readouterr()
    assert convert(root, "out", 3, 5) == 0
    said = capsys.readouterr().out
    assert said == f"{root}/out is finished, all parts of it: nothing was left to do for part 3 of 5\n"


def test_a_merged_folder_is_kept_by_parts_and_merges(root: Path, contents: Contents) -> None:
    for part in (0, 1):
        convert(root, "out", part, 2)
    main(["merge", str(root / "out")])
    before = contents(root / "out")
    assert convert(root, "out", 1, 2) == main(["merge", str(root / "out")]) == convert(root, "out") == 0
    assert contents(root / "out") == before
    os.truncate(root / "out/shard-00001.tar", 600)
    assert convert(root, "out", 1, 2) == main(["merge", str(root / "out")]) == 2
    assert convert(root, "out") == 0
    assert contents(root / "out") == before


def renumbered(folder: Path) -> None:
    """Puts the samples of shard 0 into shard 2 as well, everything else fitting."""
    for find in (lambda path: path, index_path):
        shutil.copy(find(folder / "shard-00000.tar"), find(folder / "shard-00002.tar"))
    notes = folder / "progress-00000-of-00002.jsonl"
    lines = [json.loads(line) for line in notes.read_text().splitlines()]
    first = next(line for line in lines[1:] if line["number"] == 0)
    third = next(line for line in lines[1:] if line["number"] == 2)
    third["entry"] |= {name: first["entry"][name] for name in ("samples", "bytes")}
    notes.write_text("".join(json.dumps(line) + "\n" for line in lines))


def cut_by(path: Path, size: int) -> None:
    os.truncate(path, path.stat().st_size - size)


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda out: (out / "progress-00001-of-00002.jsonl").unlink(), "out: part 1 of 2 is missing"),
    "unfinished": (
        lambda out: cut_by(out / "progress-00001-of-00002.jsonl", 9),
        "out: part 1 of 2 has finished 2 of its 3 shards: run its command again to go on",
    ),
    "not begun": (
        lambda out: os.truncate(out / "progress-00001-of-00002.jsonl", 0),
        "out: part 1 of 2 has not begun: run its command again to go on",
    ),
    "another number of parts": (
        lambda out: (out / "progress-00002-of-00004.jsonl").write_text("{}\n"),
        "has parts of 2 and of 4: delete those that are not meant",
    ),
    "without parts": (
        lambda out: (out / "progress-00001-of-00002.jsonl").rename(out / "progress.jsonl"),
        "was begun without --part",
    ),
    "other settings": (
        lambda out: (out / "progress-00001-of-00002.jsonl").write_text(
            (out / "progress-00001-of-00002.jsonl").read_text().replace('"shard_size": 2', '"shard_size": 3')
        ),
        "part 1 of 2 does not belong to part 0 of 2: .* (shard_size 2 there, 3 here)",
    ),
    "cut shard": (
        lambda out: os.truncate(out / "shard-00002.tar", 600),
        "shard-00002.tar is not the shard that part 0 of 2 made: run its command again to mend it",
    ),
    "another shard": (
        lambda out: [of(out / "shard-00001.tar").replace(of(out / "shard-00000.tar")) for of in (Path, index_path)],
        "shard-00000.tar is not the shard that part 0 of 2 made",
    ),
    "lost shard": (lambda out: (out / "shard-00004.tar").unlink(), "shard-00004.tar is not the shard that part 0 of 2"),
    "double key": (renumbered, "shard-00000.tar and shard-00002.tar both have the key 'mscoco_train2017_0'"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_what_does_not_fit_together_is_named(root: Path, capsys: pytest.CaptureFixture[str], fault: str) -> None:
    for part in (0, 1):
        convert(root, "out", part, 2)
    damage, message = FAULTS[fault]
    damage(root / "out")
    capsys.readouterr()
    assert main(["merge", str(root / "out")]) == 2
    said = capsys.readouterr().err
    for piece in message.split(" .* "):
        assert piece in said
    assert said.count("\n") == 1
    assert not (root / "out/manifest.json").exists()


BAD: dict[str, tuple[Callable[[Path], int], str]] = {
    "beyond the last": (lambda root: convert(root, "out", 2, 2), "--part 2 --of 2: parts are counted from 0 to 1"),
    "without --of": (lambda root: main(arguments(root, "out", "--part", "0")), "--part and --of go together"),
    "another number": (lambda root: convert(root, "out", 1, 3), "was begun in 2 parts: go on like that, or delete"),
    "no parts": (lambda root: convert(root, "out"), "was begun in 2 parts: go on like that"),
    "other settings": (
        lambda root: convert(root, "out", 1, 2, "--shard-size", "4"),
        "was begun with other settings (shard_size 2 there, 4 here)",
    ),
    "nothing to merge": (lambda root: main(["merge", str(root / "images")]), "no part of a conversion in"),
}


@pytest.mark.parametrize("name", BAD)
def test_parts_that_cannot_belong_together_are_refused(
    root: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    convert(root, "out", 0, 2)
    run, message = BAD[name]
    try:
        code = run(root)
    except SystemExit as exit:
        code = exit.code
    assert code == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_whether_any_image_could_be_converted_is_known_in_the_merge(
    make_corpus: MakeCorpus, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_corpus(3)
    shutil.rmtree(root / "images")
    (root / "images").mkdir()
    assert convert(root, "out", 0, 2) == convert(root, "out", 1, 2) == 0
    assert main(["merge", str(root / "out")]) == 2
    assert "nothing could be converted: image not found (3 images, 6 records)" in capsys.readouterr().err


def visual_genome(toy: Path, out: Path, *more: str) -> list[str]:
    raw = toy / "raw"
    command = ["visual-genome", "--regions", f"{raw}/annotations/toy_*_region_descriptions.json", "--image-data"]
    command += [f"{raw}/annotations/toy_*_image_data.json", "--images", f"{raw}/images", "--out", str(out)]
    return [*command, "--workers", "1", "--shard-size", "4", "--benchmark-text", *more]


def test_what_is_checked_over_all_splits_is_so_in_every_part(toy: Path, tmp_path: Path, contents: Contents) -> None:
    """The benchmark's text counts words over all splits, and images of the validation split leave the training."""
    photos = [f"train/{i:012d}.jpg" for i in (1, 2, 3)]
    lines = [{"image": photo, "expression": "it", "box": [1, 1, 9, 9]} for photo in photos]
    write_jsonl(tmp_path / "toy_mine_val.jsonl", lines)
    evaluation = ["--evaluation", str(tmp_path / "toy_mine_val.jsonl"), "--leaking-images", "drop"]
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert main(visual_genome(toy, whole, *evaluation)) == 0
    for part in range(3):
        assert main(visual_genome(toy, out, *evaluation, "--part", str(part), "--of", "3")) == 0
    assert main(["merge", str(out)]) == 0
    splits = sorted(path.name for path in whole.iterdir())
    assert splits == sorted(path.name for path in out.iterdir())
    assert len(splits) == 4
    for split in splits:
        assert contents(out / split) == contents(whole / split)
    report = json.loads((out / "toy_train/report.json").read_text())
    assert report["notes"][-1:] == ["3 of 24 images are of evaluation splits (toy_mine_val): left out"]


def test_a_split_that_a_part_never_came_to_is_missed(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A part that is stopped in the first split has begun all of them."""
    for part in (0, 1):
        assert main(visual_genome(toy, tmp_path / "out", "--part", str(part), "--of", "2")) == 0
    last = sorted((tmp_path / "out").iterdir())[-1]
    shutil.rmtree(last)
    assert main(visual_genome(toy, tmp_path / "out", "--part", "0", "--of", "2")) == 0
    assert main(["merge", str(tmp_path / "out")]) == 2
    assert f"{last}: part 1 of 2 is missing" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*/manifest.json"))


def test_the_array_job(root: Path, contents: Contents) -> None:
    """The template run as SLURM would, task by task."""
    template = Path(__file__).parents[3] / "slurm/prepare.sbatch"
    command = arguments(root, "out")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for task in range(2):
        slurm = {"PARTS": "2", "SLURM_ARRAY_TASK_ID": str(task), "SLURM_CPUS_PER_TASK": "1", "PATH": path}
        assert subprocess.run(["bash", template, *command], env=os.environ | slurm).returncode == 0
    assert main(["merge", str(root / "out")]) == 0
    convert(root, "whole")
    assert contents(root / "out") == contents(root / "whole")
