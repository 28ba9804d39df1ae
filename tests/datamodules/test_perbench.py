"""PerBench's questions as dialogues: what is asked and answered, which regions are marked, which masks are learned."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datamodules.perbench import PerBenchDataModule
from datamodules.prepare.command import main
from datamodules.samples import Question, Sample, collate
from datamodules.tokenizer import train_tokenizer
from pixel_llm.metrics.perbench import PerBenchMetrics
from pixel_llm.structures import AnswerPrediction
from tests.datamodules.formats.test_perbench import HEIGHT, WIDTH, files, rle, write

TEXTS = ["Describe in as much detail as possible.", "Answer a question about. Choose the right option. A. red B. blue"]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`shards/bench` of `files`, with a caption that types a mask token, and `tokenizer`."""
    folder = tmp_path_factory.mktemp("bench")
    content = files()
    content["description"][0]["object_annotations"][0]["caption"] = "A mug [SEG]."
    (folder / "images/p").mkdir(parents=True)
    for name in ("1.jpg", "p/2.jpg"):
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "images" / name)
    sources = ["--annotations", str(write(folder / "bench", content)), "--images", str(folder / "images")]
    assert main(["perbench", *sources, "--out", str(folder / "shards"), "--workers", "1"]) == 0
    (folder / "tokenizer").mkdir()
    texts = [*TEXTS, json.dumps(content)]
    (folder / "tokenizer/tokenizer.json").write_text(train_tokenizer(texts, 400).to_json())
    return folder


def module(bench: Path, **changes: Any) -> PerBenchDataModule:
    shards = [str(bench / "shards")]
    settings = {"train_shards": shards, "val_shards": shards, "test_shards": shards, "image_size": WIDTH}
    settings |= {"tokenizer": str(bench / "tokenizer"), "num_workers": 0, "batch_size": 5, "visual_prompts": 4}
    return PerBenchDataModule(**(settings | changes))


def record(bench: Path, number: int) -> dict[str, Any]:
    batchless = module(bench).shards("test")[0]
    data = batchless.path.read_bytes()
    columns = {name: i for i, name in enumerate(batchless.entries.fields)}
    fields = {}
    for name, column in columns.items():
        begin = int(batchless.entries.offsets[number, column])
        fields[name] = data[begin : begin + int(batchless.entries.sizes[number, column])]
    return {"__key__": batchless.entries.keys[number], "__url__": "a.tar", **fields}


def ask(bench: Path, number: int, training: bool = False, seed: int = 0, **changes: Any) -> tuple[Sample, str, str]:
    """A sample with its question and answer as text."""
    data = module(bench, **changes)
    sample = data.make_sample(training)(record(bench, number), np.random.default_rng(seed))
    [question] = sample.questions
    return sample, data.chat.decode(question.context), data.chat.decode(question.tokens)


DESCRIBE = "Describe <Prompt0> in as much detail as possible."
CHOOSE = "Answer a question about <Prompt0>. What colour is it? A. red B. blue Choose the right option."


@pytest.mark.parametrize(
    ("number", "question", "answer"),
    [
        (0, DESCRIBE, "<Prompt0>: A mug [SEG]."),
        (1, DESCRIBE, "<Prompt0>: A cat."),
        (2, CHOOSE, "B. blue"),
        (4, "Which one is left of <Prompt1>?", "Left of <Prompt1> is [SEG], and not [SEG]."),
    ],
)
def test_questions_and_answers_as_text(bench: Path, number: int, question: str, answer: str) -> None:
    _, asked, answered = ask(bench, number)
    assert (asked, answered) == (question, answer)


def test_only_tags_become_mask_tokens(bench: Path) -> None:
    seg = module(bench).chat.special.seg
    counts = [ask(bench, number)[0].questions[0].tokens.count(seg) for number in range(5)]
    assert counts == [0, 0, 0, 0, 2]


def test_the_marked_regions_are_those_that_are_given(bench: Path) -> None:
    sample, *_ = ask(bench, 4)
    [prompt] = sample.visual_prompts
    assert prompt.symbol == 1
    assert prompt.mask.shape == (HEIGHT, WIDTH)
    assert prompt.mask[1:5, 3:6].all()
    assert prompt.mask.sum() == 12
    sample, *_ = ask(bench, 3)
    assert [prompt.symbol for prompt in sample.visual_prompts] == [0]
    assert sample.visual_prompts[0].mask[:, 6:].all()


def test_evaluation_leaves_masks_to_the_references_and_training_has_one_for_each_token(bench: Path) -> None:
    question: Question = ask(bench, 4)[0].questions[0]
    assert question.answer_masks == []
    assert question.reference.masks == [rle(0, 0, 2, 2), rle(0, 0, 0, 0)]
    first, second = ask(bench, 4, training=True)[0].questions[0].answer_masks
    assert first[:2, :2].all()
    assert first.sum() == 4
    assert not second.any()


def test_training_names_regions_at_random(bench: Path) -> None:
    names = set()
    for seed in range(30):
        sample, question, answer = ask(bench, 4, training=True, seed=seed)
        [prompt] = sample.visual_prompts
        assert question == f"Which one is left of <Prompt{prompt.symbol}>?"
        assert answer.startswith(f"Left of <Prompt{prompt.symbol}> is [SEG]")
        names.add(prompt.symbol)
    assert names == {0, 1, 2, 3}


def test_a_region_that_the_view_does_not_show_is_not_asked_about(bench: Path) -> None:
    found = set()
    for seed in range(40):
        sample, question, _ = ask(bench, 0, training=True, seed=seed, scale_jitter=(3.0, 4.0))
        shown = [prompt.mask.any() for prompt in sample.visual_prompts]
        assert shown in ([True], [])
        assert bool(question) == bool(shown)
        found.add(bool(shown))
    assert found == {True, False}


def test_a_choice_can_name_its_region(tmp_path: Path, bench: Path) -> None:
    """By the symbol that is drawn for it in training, too."""
    content = files()
    content["choice"][0]["mcqs"][0]["question"] = "Is <Prompt0> [SEG]? A. red B. blue"
    sources = ["--annotations", str(write(tmp_path / "bench", content)), "--images", str(bench / "images")]
    assert main(["perbench", *sources, "--out", str(tmp_path / "shards"), "--workers", "1"]) == 0
    (tmp_path / "tokenizer").symlink_to(bench / "tokenizer")
    names = set()
    for seed in range(8):
        sample, asked, _ = ask(tmp_path, 2, training=True, seed=seed)
        name = f"<Prompt{sample.visual_prompts[0].symbol}>"
        assert asked == CHOOSE.replace("What colour is it?", "Is <Prompt0> [SEG]?").replace("<Prompt0>", name)
        seg = module(tmp_path).chat.special.seg
        assert seg not in sample.questions[0].context
        names.add(name)
    assert len(names) > 1


def test_a_region_without_a_name_is_one_line(bench: Path) -> None:
    with pytest.raises(ValueError, match="bench/segmentation/0: it names <Prompt1>, but there are names for 1 regions"):
        ask(bench, 4, visual_prompts=1)


def test_a_test_run_scores_its_own_truth_fully(bench: Path) -> None:
    data, metric = module(bench), PerBenchMetrics("paper")
    batches = list(data.test_dataloader())
    for batch in batches:
        assert batch.visual_prompts is not None
        answers = [
            AnswerPrediction(reference.key, reference.caption, reference.masks) for reference in batch.references
        ]
        metric.update(batch.references, answers)
    [figures] = metric.compute().values()
    assert (figures["descriptions"], figures["choices"], figures["segmentations"]) == (2, 2, 1)
    assert (figures["accuracy"], figures["ciou"], figures["giou"]) == (1, 1, pytest.approx(0.5, abs=1e-5))
    assert [reference.key for batch in batches for reference in batch.references][-1] == "bench/segmentation/0"


def test_questions_of_one_batch_keep_their_regions_apart(bench: Path) -> None:
    batch = collate([ask(bench, number)[0] for number in (0, 4, 3)], WIDTH, 0)
    assert batch.visual_prompts is not None
    assert batch.visual_prompts.image_index.tolist() == [0, 1, 2]
    assert batch.visual_prompts.symbols.tolist() == [0, 1, 0]
    assert batch.prompts.image_index.tolist() == [0, 1, 2]
