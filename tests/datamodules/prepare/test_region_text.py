"""The text of the dense-captioning benchmark."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from datamodules.formats.records import FormatError
from datamodules.formats.regions import RegionSplit, RegionSplits
from datamodules.formats.visual_genome import read_region_descriptions
from datamodules.prepare.command import main
from datamodules.prepare.region_text import apply_benchmark_text, benchmark_words
from tests.datamodules.region_data import described, region, write


@pytest.mark.parametrize(
    ("phrase", "expected"),
    [
        ("The man's  T-shirt, red & white. ", "the mans tshirt red white"),
        ("a café\n— 5½ ¢ at 20°", "a cafe 5half cent at 20 degree"),
        ("...!", ""),
        ("Ein Bär", "ein bär"),
    ],
)
def test_words(phrase: str, expected: str) -> None:
    assert " ".join(benchmark_words(phrase)) == expected


def splits(tmp_path: Path, train: list[str], test: list[str]) -> dict[str, RegionSplit]:
    parts = {"1": "train", "2": "test"}
    entries = [
        described(i, *(region(100 * i + n, p) for n, p in enumerate(said))) for i, said in ((1, train), (2, test))
    ]
    found = RegionSplits()
    read_region_descriptions(write(tmp_path / "region_descriptions.json", entries), found, {}, parts)
    return {split.name: split for split in found.all()}


def phrases(split: RegionSplit) -> list[str]:
    return [one.phrase for image in split.images.values() for one in image.regions]


def test_rare_words_become_unknown_and_long_phrases_go(tmp_path: Path) -> None:
    """`dog` occurs 15 times in both splits together, `cat` 14 times besides its use in a phrase that is too long."""
    long = " ".join(["cat"] * 16)
    found = splits(tmp_path, ["A dog!"] * 14 + ["a cat"] * 14 + [long], ["the dog", " ".join(["a"] * 15)])
    said = apply_benchmark_text(list(found.values()))
    assert said == {
        name: [
            f"benchmark text: {unknown} of {words} words made <UNK>",
            f"benchmark text: {long} phrases of over 15 words left out",
        ]
        for name, unknown, words, long in (("vg_train", 14, 56, 1), ("vg_test", 1, 17, 0))
    }
    assert phrases(found["vg_train"]) == ["a dog"] * 14 + ["a <UNK>"] * 14
    assert phrases(found["vg_test"]) == ["<UNK> dog", " ".join(["a"] * 15)]
    [bad] = found["vg_train"].bad
    assert bad.reason == "a phrase of more words than the benchmark has"
    assert bad.where.endswith("region 128")


def test_the_training_split_is_needed(tmp_path: Path) -> None:
    test = splits(tmp_path, ["a"], ["a"])["vg_test"]
    with pytest.raises(FormatError, match="vg_test: --benchmark-text counts words over all splits: give the training"):
        apply_benchmark_text([test])


def test_the_text_belongs_to_the_settings_of_the_shards(tmp_path: Path, toy: Path) -> None:
    """Shards of another text are not gone on with; the toy world's own text is hardly changed."""
    raw = toy / "raw"
    source = ["visual-genome", "--regions", f"{raw}/annotations/toy_*_region_descriptions.json"]
    source += [
        "--image-data",
        f"{raw}/annotations/toy_*_image_data.json",
        "--images",
        f"{raw}/images",
        "--workers",
        "1",
    ]
    assert main([*source, "--out", str(tmp_path / "plain")]) == 0
    assert main([*source, "--out", str(tmp_path / "plain"), "--benchmark-text"]) == 2
    assert main([*source, "--out", str(tmp_path / "text"), "--benchmark-text"]) == 0


@pytest.mark.shared
def test_on_the_sample(shared: Path) -> None:
    """Against a count with regular expressions; the sample holds no character that is spelled out."""
    path = shared / "samples/visual_genome/region_descriptions_first100.json"
    found = RegionSplits()
    read_region_descriptions(path, found, {})
    [split] = found.all()
    apply_benchmark_text([split])
    said = [r["phrase"] for entry in json.loads(path.read_text()) for r in entry["regions"]]
    words = [re.sub(r"[^\w\s]|_", "", phrase.lower()).split() for phrase in said]
    short = [one for one in words if len(one) <= 15]
    uses = Counter(word for one in short for word in one)
    assert phrases(split) == [" ".join(w if uses[w] >= 15 else "<UNK>" for w in one) for one in short]
    assert len(split.bad) == len(words) - len(short)
