"""Published counts, and images that a model must not train on."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from datamodules.prepare.command import main
from datamodules.prepare.referring_checks import PUBLISHED, check_published
from datamodules.prepare.referring_corpora import read_referring
from tests.datamodules.referring_data import annotation, image, published_refs, ref, write_published, write_refer
from tests.datamodules.region_data import image_data

SAMPLES = [
    name for name in PUBLISHED if not name.endswith("train") and name != "refcocog_umd_test" and "google" not in name
]


@pytest.mark.shared
@pytest.mark.parametrize("name", SAMPLES)
def test_official_splits_are_as_published(shared: Path, tmp_path: Path, name: str) -> None:
    data_set, partition, part = name.split("_")
    folder = data_set.replace("plus", "+")
    listed = published_refs(shared / f"samples/refcoco/{folder}/{partition}_{part}.json.gz")
    [split] = read_referring([write_published(tmp_path / folder, f"refs({partition}).p", listed)])
    [line] = check_published(split)
    assert line.startswith("as published: ")
    [split] = read_referring([write_published(tmp_path / folder, f"refs({partition}).p", listed[:-1])])
    [line] = check_published(split)
    refs = PUBLISHED[name].refs
    assert f"not the published {name}: its annotations hold {refs - 1:,} refs, not {refs:,}; " in line


def test_what_the_file_holds_counts_not_what_can_be_used(tmp_path: Path) -> None:
    write_refer(tmp_path / "refcoco", [ref(1, "", "a", ann_id=9), ref(2, "b", "b")], [annotation(2)], [image(1)])
    [split] = read_referring([tmp_path / "refcoco"])
    [line] = check_published(split)
    assert "2 refs, not 3,811; 4 sentences, not 10,834; 1 images, not 1,500" in line


def test_partitions_of_one_data_set_agree() -> None:
    """Each partition divides the same refs and sentences."""
    totals: dict[str, set[tuple[int, int]]] = {}
    for data_set, partition in (
        ("refcoco", "unc"),
        ("refcocoplus", "unc"),
        ("refcocog", "umd"),
        ("refcocog", "google"),
    ):
        parts = [found for name, found in PUBLISHED.items() if name.startswith(f"{data_set}_{partition}_")]
        total = (sum(part.refs for part in parts), sum(part.sentences or 0 for part in parts))
        totals.setdefault(data_set, set()).add(total)
    # the totals of the three papers
    assert totals == {
        "refcoco": {(50_000, 142_210)},
        "refcocoplus": {(49_856, 141_564)},
        "refcocog": {(49_822, 95_010)},
    }


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """photos/; refcoco/, whose training split has images 1 and 2, validation 3; mixed/, with images 1, 3 and 4."""
    (tmp_path / "photos").mkdir()
    for number in range(1, 5):
        Image.new("RGB", (40, 30)).save(tmp_path / f"photos/COCO_train2014_{number:012d}.jpg")
        Image.new("RGB", (40, 30)).save(tmp_path / f"photos/{70 + number}.jpg")
    refs = [ref(i, "a", "b", image=i, split=split) for i, split in ((1, "train"), (2, "train"), (3, "val"))]
    write_refer(tmp_path / "refcoco", refs, [annotation(i, i) for i in (1, 2, 3)], [image(i) for i in (1, 2, 3)])
    write_mixed(tmp_path, (1, 3, 4), "coco")
    return tmp_path


def write_mixed(root: Path, numbers: tuple[int, ...], source: str) -> None:
    box = {"width": 40, "height": 30, "bbox": [1, 1, 5, 5], "expressions": ["a"], "data_source": source}
    (root / "mixed").mkdir(exist_ok=True)
    (root / "mixed/instances.json").write_text(json.dumps({"train": [{**box, "image_id": i} for i in numbers]}))


def prepare(root: Path, *annotations: str, out: str = "out", more: tuple[str, ...] = ()) -> int:
    paths = [str(root / one) for one in annotations]
    command = ["refcoco", "--annotations", *paths, "--images", str(root / "photos"), "--out", str(root / out)]
    return main([*command, "--workers", "1", *more])


def report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


def test_a_split_without_leaks_is_said_to_be_so(data: Path) -> None:
    assert prepare(data, "refcoco") == 0
    assert "2 images, none of an evaluation split" in report(data / "out/refcoco_unc_train")["notes"]


@pytest.mark.parametrize("evaluation", ["annotations", "shards", "folder of shards", "the same command"])
def test_leaking_images_are_refused(data: Path, capsys: pytest.CaptureFixture[str], evaluation: str) -> None:
    assert prepare(data, "refcoco", out="evaluation") == 0
    where = {
        "annotations": ["refcoco"],
        "shards": ["evaluation/refcoco_unc_val", "evaluation/refcoco_unc_train"],
        "folder of shards": ["evaluation"],
    }
    given = [str(data / path) for path in where.get(evaluation, [])]
    capsys.readouterr()
    both = ["refcoco"] if evaluation == "the same command" else []
    assert prepare(data, "mixed", *both, more=("--evaluation", *given) if given else ()) == 2
    said = capsys.readouterr().err
    assert "mixed_coco_train: 1 of 3 images are of evaluation splits (refcoco_unc_val), such as coco/3: " in said
    assert "--leaking-images drop leaves them out, keep keeps them" in said
    assert said.count("\n") == 1
    assert not (data / "out").exists()


def test_leaking_images_are_dropped_or_kept_when_asked(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for action, images in (("drop", 2), ("keep", 3)):
        more = ("--evaluation", str(data / "refcoco"), "--leaking-images", action)
        assert prepare(data, "mixed", out=action, more=more) == 0
        found = report(data / action / "mixed_coco_train")
        assert found["counts"]["images written"] == images
        assert any("1 of 3 images are of evaluation splits (refcoco_unc_val): " in note for note in found["notes"])
    # what was left out belongs to the settings of the shards
    capsys.readouterr()
    assert prepare(data, "mixed", out="drop") == 2
    assert "was begun with other settings (left_out" in capsys.readouterr().err


def test_splits_of_one_partition_that_share_photos_are_refused(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refs = [ref(1, "a", split="train"), ref(2, "b", split="val")]
    folder = write_refer(data / "refcocog", refs, [annotation(1), annotation(2)], [image(1)], "refs(google).p")
    umd = [ref(1, "a", split="train"), ref(2, "b", split="train")]
    write_refer(folder, umd, [annotation(1), annotation(2)], [image(1)], "refs(umd).p")
    assert prepare(data, "refcocog") == 2
    assert "refcocog_google_train: 1 of 1 images are of evaluation splits" in capsys.readouterr().err
    assert prepare(data, "refcocog/refs(umd).p") == 0


def test_photos_of_visual_genome_are_known_by_their_coco_ids(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_mixed(data, (71, 72), "vg")
    evaluation = ("--evaluation", str(data / "refcoco"))
    assert prepare(data, "mixed", out="unknown", more=evaluation) == 0
    assert "2 images of Visual Genome may be COCO's: --vg-image-data tells which" in capsys.readouterr().out
    entries = [image_data(71, coco_id=3), image_data(72)]
    (data / "image_data.json").write_text(json.dumps(entries))
    known = (*evaluation, "--vg-image-data", str(data / "image_data.json"))
    assert prepare(data, "mixed", more=known) == 2
    assert (
        "mixed_vg_train: 1 of 2 images are of evaluation splits (refcoco_unc_val), such as coco/3"
        in capsys.readouterr().err
    )
    assert prepare(data, "mixed", more=(*known, "--leaking-images", "drop")) == 0
    assert prepare(data, "refcoco", more=("--vg-image-data", str(data / "refcoco/instances.json"))) == 2
    assert "instances.json: not a JSON list" in capsys.readouterr().err
