"""A corpus with every fault that annotations and pictures are known for, through the command and then the loader.

Each record is either served as it stands or left out with a reason; nothing is lost in silence, nothing breaks.
"""

import io
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from datamodules.image_captions import ImageCaptionDataModule
from datamodules.localized_narratives import LocalizedNarrativesDataModule
from datamodules.prepare.command import main
from tests.datamodules.prepare.conftest import narrative

Save = Callable[[Path], object]
LONG = " ".join(f"word{i}" for i in range(5000))


def point(x: float, y: float, t: float) -> dict[str, float]:
    return {"x": x, "y": y, "t": t}


def picture(mode: str = "RGB") -> Image.Image:
    return Image.linear_gradient("L").resize((80, 60)).convert(mode)


def turned(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture().save(path, exif=exif)


def truncated(path: Path) -> None:
    buffer = io.BytesIO()
    picture().save(buffer, "JPEG")
    path.write_bytes(buffer.getvalue()[:-200])


PICTURES: dict[str, Save] = {
    "grey": lambda path: picture("L").save(path),
    "cmyk": lambda path: picture("CMYK").save(path),
    "turned": turned,
    "100 megapixels": lambda path: Image.new("L", (10_000, 10_000), 90).save(path),
    "truncated": truncated,
    "missing": lambda path: None,
}

SERVED: dict[str, dict[str, Any]] = {
    "one point": {"traces": [[point(0.5, 0.5, 0.5)]]},
    "one point behind the last word": {"traces": [[point(0.5, 0.5, 50)]]},
    "times out of order": {"traces": [[point(0.1, 0.5, 2.5), point(0.9, 0.5, 0.5), point(0.4, 0.2, 1.5)]]},
    "outside the image": {"traces": [[point(-0.3, 1.2, 0.5), point(1.4, -0.5, 1.5), point(0.4, 5, 2.5)]]},
    "no utterance": {"timed_caption": []},
    "an utterance that ends before it starts": {"timed_caption": [{"utterance": "a", "start_time": 2, "end_time": 1}]},
    "an empty utterance": {"timed_caption": [{"utterance": "", "start_time": 0, "end_time": 1}]},
    "emoji": {"caption": "a 😀 ball 👩‍👩‍👧 here. The 🏳️‍🌈 flag!"},
    "right to left": {"caption": "כלב חום על הדשא. شجرة خضراء"},
    "only marks": {"caption": "... !!"},
    "control characters": {"caption": "a red\nball\u2028next\x00zero"},
    "5,000 words": {"caption": LONG, "traces": [[point(0.5, 0.5, t) for t in range(5000)]]},
    "dots.in.the.id": {},
}
USELESS: dict[str, dict[str, Any]] = {
    "no stroke": {"traces": []},
    "no point": {"traces": [[]]},
    "a point beyond all time": {"traces": [[point(0.5, 0.5, 1e300)]]},
    "an utterance beyond all time": {"timed_caption": [{"utterance": "a", "start_time": 0, "end_time": 1e300}]},
    "empty caption": {"caption": ""},
    "blank caption": {"caption": " \n"},
}
RECORDS = SERVED | USELESS
BROKEN_LINES = ['{"dataset_id": "x", "im', "null", '"text"', "\udcff"]
LEFT_OUT = {
    "image broken": 1,
    "image not found": 1,
    "no trace point": 3,
    "an utterance beyond a day": 1,
    "empty caption": 2,
    "broken JSON": 1,
    "not a JSON object where one is expected": 2,
    "not UTF-8": 1,
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """images/, n.jsonl, and what the commands made of them: out/, tokenizer/."""
    root = tmp_path_factory.mktemp("bad")
    (root / "images").mkdir()
    for name, save in PICTURES.items():
        save(root / f"images/{name}.jpg")
    for name in RECORDS:
        picture().save(root / f"images/{name}.jpg")
    records = [narrative(name) for name in PICTURES]
    records += [narrative(name, **changes) for name, changes in RECORDS.items()]
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    for number, line in enumerate(BROKEN_LINES):
        lines.insert(5 * number, line)
    (root / "n.jsonl").write_bytes("\n\n".join(lines).encode(errors="surrogateescape"))
    arguments = ["--annotations", f"{root}/n.jsonl", "--images", f"{root}/images", "--out", f"{root}/out"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert main(["localized-narratives", *arguments, "--workers", "1", "--shard-size", "7"]) == 0
        assert main(["tokenizer", f"{root}/out", "--out", f"{root}/tokenizer", "--vocabulary-size", "300"]) == 0
    return root


def test_every_record_is_written_or_left_out_with_its_reason(corpus: Path) -> None:
    report = json.loads((corpus / "out/report.json").read_text())
    assert {reason: skipped["count"] for reason, skipped in report["skipped"]["records"].items()} == LEFT_OUT
    read, left_out = len(PICTURES) + len(RECORDS) + len(BROKEN_LINES), sum(LEFT_OUT.values())
    assert (report["counts"]["records read"], report["counts"]["records written"]) == (read, read - left_out)
    assert report["counts"]["trace points dropped"] == 1


def settings(corpus: Path) -> dict[str, Any]:
    folders = {f"{split}_shards": [str(corpus / "out")] for split in ("train", "val", "test")}
    return {**folders, "tokenizer": str(corpus / "tokenizer"), "image_size": 32, "batch_size": 1, "num_workers": 0}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("alignment", ["interval", "rank"])
@pytest.mark.parametrize("sentences", [True, False])
def test_whatever_was_written_is_served(corpus: Path, alignment: Any, sentences: bool) -> None:
    module = LocalizedNarrativesDataModule(
        **settings(corpus), alignment=alignment, sentences=sentences, scale_jitter=(0.5, 2.0), flip_probability=0.5
    )
    captions: dict[str, str] = {}
    for batch in module.test_dataloader():
        assert batch.targets is not None
        assert ((batch.targets.locations >= 0) & (batch.targets.locations <= 1)).all()
        text = " ".join(r.caption for r in batch.references if r)
        captions[batch.keys[0].removeprefix("mscoco_train2017_")] = text
    wanted = {*PICTURES, *SERVED} - {"truncated", "missing"}
    assert captions.keys() == {"".join(c if c.isalnum() or c in "_-" else "_" for c in name) for name in wanted}
    assert captions["5_000_words"] == LONG
    assert captions["emoji"] == RECORDS["emoji"]["caption"]
    assert captions["right_to_left"] == RECORDS["right to left"]["caption"]
    assert sum(len(batch.keys) for batch in module.train_dataloader()) == len(wanted)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("split_prefix", [True, False])
def test_the_captions_alone_are_served(corpus: Path, split_prefix: bool) -> None:
    module = ImageCaptionDataModule(**settings(corpus), split_prefix=split_prefix)
    assert len(list(module.train_dataloader())) == len(list(module.test_dataloader()))


def test_pictures_are_shown_upright_and_whole(corpus: Path) -> None:
    """The gradient runs from black at the top to white below; turned by the camera, from white on the left."""
    module = LocalizedNarrativesDataModule(**settings(corpus))
    shown = {batch.keys[0].split("_")[-1]: batch for batch in module.test_dataloader()}
    for name in ("grey", "cmyk", "turned"):
        height, width = shown[name].sizes[0].tolist()
        image = shown[name].images[0, :, :height, :width].float().mean(0)
        dark, bright = (image[:, -1], image[:, 0]) if name == "turned" else (image[0], image[-1])
        assert bright.mean() > 230
        assert dark.mean() < 25
    assert shown["megapixels"].original_sizes.tolist() == [[5000, 5000]]  # as stored, within the limit of a shard
    assert shown["turned"].original_sizes.tolist() == [[80, 60]]
