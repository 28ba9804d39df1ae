"""Tests of a single transformer on PerBench: what it says and segments, in both modes, in a file that scores alike."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from torch import Tensor

from callbacks.evaluation_report import EvaluationReport
from datamodules.perbench import PerBenchDataModule
from datamodules.prepare.command import main as prepare
from datamodules.tokenizer import train_tokenizer
from pixel_llm import cli
from pixel_llm.core.decoding import Decoded
from pixel_llm.metrics import perbench_scores
from pixel_llm.pixel_sail.build import pixel_sail
from pixel_llm.pixel_sail.pixel_sail import PixelSail, SailImages
from pixel_llm.pixel_sail.transformer import Transformer
from pixel_llm.special_tokens import SpecialTokens
from pixel_llm.structures import AnswerPrediction, Batch
from pixel_llm.tasks.pixel_sail import Dialogues
from tests.datamodules.formats.test_perbench import HEIGHT, WIDTH, files, rle, write
from tests.runs import tiny_optimizer, tiny_trainer

TEXTS = ["Describe in as much detail as possible.", "Answer a question about. Choose the right option.", "It is."]


@pytest.fixture(autouse=True)
def _quick_captions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Captions are scored by whether they are right: METEOR takes a minute, and has tests of its own."""

    def score(captions: list[str], references: list[list[str]]) -> dict[str, float]:
        return {"meteor": sum(one in own for one, own in zip(captions, references, strict=True)) / len(captions)}

    monkeypatch.setattr(perbench_scores, "score_captions", score)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Raw `bench` with two segmentations, of two masks and of one, its `shards/bench`, and `tokenizer`."""
    folder, content = tmp_path_factory.mktemp("perbench"), files()
    masks = {"obj1": rle(0, 0, 8, 3), "obj2": rle(2, 1, 7, 6)}
    single = {"question": "Is it obj1?", "answer": "It is obj2.", "segmentations": masks}
    content["segmentation"].append({"image_name": "p/2.jpg", **single})
    (folder / "images/p").mkdir(parents=True)
    for name, colour in (("1.jpg", (200, 30, 90)), ("p/2.jpg", (20, 120, 250))):
        Image.new("RGB", (WIDTH, HEIGHT), colour).save(folder / "images" / name)
    sources = ["--annotations", str(write(folder / "bench", content)), "--images", str(folder / "images")]
    assert prepare(["perbench", *sources, "--out", str(folder / "shards/bench"), "--workers", "1"]) == 0
    (folder / "tokenizer").mkdir()
    texts = [*TEXTS, json.dumps(content)]
    (folder / "tokenizer/tokenizer.json").write_text(train_tokenizer(texts, 400).to_json())
    return folder


def data_of(bench: Path, **changes: Any) -> PerBenchDataModule:
    folders = {f"{split}_shards": [str(bench / "shards/bench")] for split in ("train", "val", "test")}
    settings: dict[str, Any] = {"image_size": WIDTH, "batch_size": 4, "num_workers": 0, "visual_prompts": 4}
    return PerBenchDataModule(**folders | {"tokenizer": str(bench / "tokenizer")} | settings | changes)


def core_for(data: PerBenchDataModule) -> PixelSail:
    words = data.tokenizer.vocabulary_size
    torch.manual_seed(0)
    sizes = {"width": 16, "layers": 1, "heads": 2, "key_value_heads": 1, "feed_forward": 16, "rope_base": 100.0}
    backbone = Transformer(vocabulary_size=SpecialTokens(words, 4).vocabulary_size, **sizes)
    core = pixel_sail(backbone, words, visual_prompts=4, patch=4, mask_stride=2, mask_embedding=8)
    for parameter in core.parameters():  # as it begins, all masks are alike
        torch.nn.init.normal_(parameter, std=0.5)
    return core


class Oracle(Dialogues):
    """Says what is true, and segments the targets of its questions."""

    def read(self, batch: Batch) -> SailImages:
        self.batch = batch
        self.core.generate = self.generate
        self.core.mask_features = lambda images: torch.zeros(len(batch.keys), 1, WIDTH, WIDTH)
        self.core.masks = self.masks
        return super().read(batch)

    def generate(self, *_: Any) -> Decoded:
        tokens = self.batch.targets.tokens
        spoken = tokens == self.core.special.seg
        rows = torch.arange(len(tokens))[:, None].expand_as(tokens)
        return Decoded(tokens, torch.stack([rows, spoken.cumsum(1) - 1], dim=2)[:, :-1], torch.zeros(len(tokens)))

    def masks(self, features: Tensor, hidden: Tensor, image_index: Tensor) -> Tensor:
        logits = torch.full((len(hidden), WIDTH, WIDTH), -9.0)
        for out, (row, number) in zip(logits, hidden.tolist(), strict=True):
            mask = coco_mask.decode(self.batch.references[row].masks[number])
            out[:HEIGHT] = torch.from_numpy(mask) * 18.0 - 9.0
        return logits


def figures_of(model: Dialogues, data: PerBenchDataModule, folder: Path) -> dict[str, float]:
    """The figures of a test, which leaves test.jsonl in the folder."""
    tiny_trainer(folder, steps=1, callbacks=[EvaluationReport()]).test(model, data, verbose=False)
    return json.loads((folder / "test.json").read_text())


def scored(monkeypatch: pytest.MonkeyPatch, file: Path, annotations: Path, mode: str) -> dict[str, float]:
    """The figures that `pixel-llm score perbench` gives the only split of a file."""
    out = file.with_name(f"{mode}.json")
    arguments = ["--predictions", file, "--annotations", annotations, "--mode", mode, "--json", out]
    monkeypatch.setattr(sys, "argv", ["pixel-llm", "score", "perbench", *map(str, arguments)])
    assert cli.main() == 0
    [found] = json.loads(out.read_text())["scores"].values()
    return found


def of_mode(figures: dict[str, float], mode: str) -> Any:
    """Those of a test, which logs them as float32, by the names that the command has for them."""
    named = {name.removeprefix("bench/"): value for name, value in figures.items() if name.startswith("bench/")}
    paper = {name.removeprefix("paper/"): value for name, value in named.items() if name.startswith("paper/")}
    strict = {name: value for name, value in named.items() if not name.startswith("paper/")}
    return pytest.approx(paper if mode == "paper" else strict, rel=1e-6)


def test_true_answers_have_every_point(bench: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    data = data_of(bench)
    figures = figures_of(Oracle(core_for(data), tiny_optimizer()), data, tmp_path)
    shares = ("meteor", "accuracy", "ciou", "giou", "ciou_union", "giou_union", "overall")
    assert {name: figures[f"bench/{name}"] for name in shares} == pytest.approx(dict.fromkeys(shares, 1.0))
    assert (figures["bench/segmentations"], figures["bench/without_mask"]) == (2, 0)
    assert (figures["bench/paper/accuracy"], figures["bench/paper/ciou"]) == (1, 1)
    assert figures["bench/paper/giou"] == pytest.approx(2 / 3, abs=1e-5)  # the third target is looked at by nobody
    for mode in ("strict", "paper"):
        assert scored(monkeypatch, tmp_path / "test.jsonl", bench / "shards", mode) == of_mode(figures, mode)
    said = capsys.readouterr().out
    assert "protocol: PerBench, strict" in said
    assert "protocol: PerBench as published" in said


@pytest.mark.parametrize("force_masks", [True, False])
def test_a_test_and_the_scores_of_its_file_agree(bench: Path, tmp_path: Path, monkeypatch, force_masks: bool) -> None:
    """Of a model that says anything, against shards and raw files."""
    data = data_of(bench)
    model = Dialogues(core_for(data), tiny_optimizer(), max_tokens=8, force_masks=force_masks)
    backbone, seg = model.core.backbone, torch.tensor([model.core.special.seg])
    logits = backbone.logits
    monkeypatch.setattr(backbone, "logits", lambda states: logits(states).index_fill(-1, seg, -1e4))
    figures = figures_of(model, data, tmp_path)
    for mode in ("strict", "paper"):
        for annotations in (bench / "shards", bench / "bench"):
            assert scored(monkeypatch, tmp_path / "test.jsonl", annotations, mode) == of_mode(figures, mode)
    assert figures["bench/without_mask"] == figures["bench/segmentations"] == 2
    assert (figures["bench/ciou"], figures["bench/giou"]) == (0, 0.25)  # one target is empty, and silence is right
    rows = [AnswerPrediction(**json.loads(line)) for line in (tmp_path / "test.jsonl").read_text().splitlines()]
    assert len(rows) == 6
    assert [len(row.forced_masks) for row in rows if "segmentation" in row.key] == [int(force_masks)] * 2
    assert not any(row.forced_masks for row in rows if "segmentation" not in row.key)


def test_a_forced_mask_is_that_of_a_model_that_says_so(bench: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it is read in one go or written token by token."""
    data = data_of(bench, batch_size=6)
    model = Dialogues(core_for(data), tiny_optimizer(), max_tokens=12).eval()
    model.chat = data.chat
    [batch] = data.test_dataloader()

    def saying(form: str) -> list[AnswerPrediction]:
        words = iter([*data.chat.encode(form), data.tokenizer.eos_id])

        def certain(states: Tensor) -> Tensor:
            return torch.eye(model.core.backbone.vocabulary_size)[next(words, 0)].expand(len(states), -1)

        monkeypatch.setattr(model.core.backbone, "logits", certain)
        return model.predict_step(batch, 0)

    said, silent = saying("It is [SEG]."), saying("It is.")
    assert [one.answer for one in said] == ["It is [SEG]."] * 6
    assert [len(one.masks) for one in said] == [1] * 6
    assert not any(one.masks for one in silent)
    forced = [one for one in silent if one.forced_masks]
    assert [one.key for one in forced] == ["bench/segmentation/0", "bench/segmentation/1"]
    for one in forced:
        assert one.forced_masks == next(other.masks for other in said if other.key == one.key)
    assert forced[0].forced_masks != forced[1].forced_masks


def test_a_core_without_a_mask_head_answers_in_words(bench: Path) -> None:
    data = data_of(bench, batch_size=6)
    core = core_for(data)
    core.mask_head = None
    model = Dialogues(core, tiny_optimizer(), max_tokens=8).eval()
    model.chat = data.chat
    [batch] = data.test_dataloader()
    assert not any(one.masks or one.forced_masks for one in model.predict_step(batch, 0))


def test_masks_of_one_answer_stay_apart(bench: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = data_of(bench, batch_size=6)
    model = Oracle(core_for(data), tiny_optimizer()).eval()
    model.chat = data.chat
    [batch] = data.test_dataloader()
    answers = {one.key: one for one in model.predict_step(batch, 0)}
    assert answers["bench/segmentation/0"].masks == [rle(0, 0, 2, 2), rle(0, 0, 0, 0)]
    assert answers["bench/segmentation/0"].answer == "Left of <Prompt1> is [SEG], and not [SEG]."
    assert answers["bench/choice/0"].answer == "B. blue"


def test_data_of_an_unknown_kind_are_one_line(bench: Path, tmp_path: Path) -> None:
    data = data_of(bench, batch_size=2)
    model = Dialogues(core_for(data), tiny_optimizer())
    data.name = "referring"
    with pytest.raises(ValueError, match=r"^data of kind referring are not for this model, which knows .*perbench$"):
        tiny_trainer(tmp_path, steps=1).test(model, data, verbose=False)
    model.chat = data.chat
    batch = next(iter(data.test_dataloader()))
    for sources, reason in ((["new"] * 2, "data of kind new are not"), (["a", "b"], "a batch of a, b: answers are")):
        batch.sources = sources
        with pytest.raises(ValueError, match=f"^{reason}"):
            model.test_step(batch, 0)
