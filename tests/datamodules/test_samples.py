"""Batches: flat ragged prompts, padding at the end, and everything where its image is."""

import numpy as np
import pytest
import torch

from datamodules.samples import Question, Sample, VisualPrompt, collate
from datamodules.views import View
from pixel_llm.structures import Batch, Reference

PAD = 9


def sample(key: str, height: int, width: int, questions: list[Question], value: int = 7) -> Sample:
    pixels = torch.full((3, height, width), value, dtype=torch.uint8)
    return Sample(key, View(pixels, (0, 0, 1, 1), False, (10 * height, 10 * width)), questions, position=5, source="s")


def asked(tokens: list[int], context: list[int], number: float = 0.0, located: list[int] | None = None) -> Question:
    """A question whose located tokens have a box made of `number`."""
    boxes = np.full((len(tokens), 4), np.nan)
    boxes[located or []] = [number, number + 0.1, number + 0.2, number + 0.3]
    return Question(Reference(f"r{number}", ""), tokens, boxes, context, (0.0, 0.0, number, 1.0))


@pytest.fixture
def batch() -> Batch:
    """Two, no and one questions on three images of different shapes."""
    first = sample("a", 4, 8, [asked([0, 3, 1], [4], 0.1, [1]), asked([0, 3, 5, 6, 1], [], 0.2, [1, 3])])
    third = sample("c", 8, 6, [asked([0, 1], [4, 4, 4], 0.3)])
    return collate([first, sample("b", 8, 8, [], value=200), third], canvas=8, pad_id=PAD)


def test_images_are_padded_with_zeros_at_the_right_and_below(batch: Batch) -> None:
    assert batch.images.dtype == torch.uint8
    assert batch.sizes.tolist() == [[4, 8], [8, 8], [8, 6]]
    assert batch.original_sizes.tolist() == [[40, 80], [80, 80], [80, 60]]
    assert (batch.images[0, :, :4] == 7).all()
    assert not batch.images[0, :, 4:].any()
    assert (batch.images[1] == 200).all()
    assert not batch.images[2, :, :, 6:].any()


def test_prompts_are_flat_and_know_their_image(batch: Batch) -> None:
    assert batch.prompts.image_index.tolist() == [0, 0, 2]
    assert batch.prompts.boxes[:, 2].tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert batch.prompts.context is not None
    assert batch.prompts.context.tolist() == [[4, PAD, PAD], [PAD, PAD, PAD], [4, 4, 4]]
    assert [r.key for r in batch.references if r] == ["r0.1", "r0.2", "r0.3"]
    assert (batch.keys, batch.positions, batch.sources) == (["a", "b", "c"], [5, 5, 5], ["s", "s", "s"])


def test_targets_are_padded_and_located_where_a_box_is(batch: Batch) -> None:
    assert batch.targets is not None
    assert batch.targets.tokens.tolist() == [[0, 3, 1, PAD, PAD], [0, 3, 5, 6, 1], [0, 1, PAD, PAD, PAD]]
    assert batch.targets.located.nonzero().tolist() == [[0, 1], [1, 1], [1, 3]]
    assert batch.targets.locations[1, 3].tolist() == [pytest.approx([0.2, 0.3]), pytest.approx([0.4, 0.5])]
    assert not batch.targets.locations.isnan().any()


def test_what_nobody_asked_is_absent() -> None:
    plain = collate([sample("a", 4, 4, [Question(Reference("r", ""))])], 4, 0)
    assert (plain.prompts.context, plain.targets, plain.masks, plain.labels) == (None, None, None, None)
    empty = collate([sample("a", 4, 4, [])], 4, 0)
    assert tuple(empty.prompts.boxes.shape) == (0, 4)
    assert empty.prompts.image_index.dtype == torch.long
    assert (empty.targets, empty.references) == (None, [])


def test_masks_and_labels_of_mixed_questions() -> None:
    mask = torch.ones(3, 4, dtype=torch.bool)
    questions = [Question(Reference("r", "")), Question(Reference("r", ""), mask=mask, labels=[2, 0])]
    batch = collate([sample("a", 3, 4, questions)], 4, 0)
    assert batch.masks is not None
    assert batch.masks.sum((1, 2)).tolist() == [0, 12]
    assert not batch.masks[:, 3].any()
    assert batch.labels is not None
    assert batch.labels.tolist() == [[-1, -1], [2, 0]]


def test_a_repeated_sample_has_no_reference() -> None:
    once, again = (sample("a", 4, 4, [asked([0, 1], [])]) for _ in range(2))
    again.repeated = True
    assert [r is None for r in collate([once, again], 4, 0).references] == [False, True]


def test_masks_of_answers_are_flat_in_their_order() -> None:
    small, wide = torch.ones(2, 3, dtype=torch.bool), torch.ones(3, 4, dtype=torch.bool)
    empty = torch.zeros(3, 4, dtype=torch.bool)
    first = [asked([0, 1], []), Question(Reference("r", ""), answer_masks=[small, empty])]
    second = [Question(Reference("r", ""), answer_masks=[wide])]
    batch = collate([sample("a", 3, 4, first), sample("b", 3, 4, second)], 4, 0)
    assert batch.masks is not None
    assert batch.masks.sum((1, 2)).tolist() == [6, 0, 12]


def test_regions_that_questions_name_belong_to_their_image() -> None:
    def region(symbol: int, pixels: int) -> VisualPrompt:
        mask = torch.zeros(3, 4, dtype=torch.bool)
        mask[0, :pixels] = True
        return VisualPrompt(symbol, mask)

    shared, other, third = region(2, 1), region(0, 2), region(2, 3)
    first = [Question(Reference("r", ""), visual_prompts=prompts) for prompts in ([shared], [shared, other])]
    second = [Question(Reference("r", ""), visual_prompts=[third])]
    batch = collate([sample("a", 3, 4, first), sample("b", 3, 4, []), sample("c", 3, 4, second)], 4, 0)
    assert batch.visual_prompts is not None
    assert batch.visual_prompts.image_index.tolist() == [0, 0, 2]
    assert batch.visual_prompts.symbols.tolist() == [2, 0, 2]
    assert batch.visual_prompts.masks.shape == (3, 4, 4)
    assert batch.visual_prompts.masks.sum((1, 2)).tolist() == [1, 2, 3]
    first[0].visual_prompts.append(region(2, 1))
    with pytest.raises(ValueError, match="a: two regions are named <Prompt2>"):
        collate([sample("a", 3, 4, first)], 4, 0)


def test_texts_are_padded_to_a_multiple_of_tokens() -> None:
    samples = [sample("a", 4, 4, [asked([0, 3, 1], [4], 0.1, [1]), asked([0, 3, 5, 6, 1], [], 0.2, [1, 3])])]
    short, long = (collate(samples, 4, PAD, multiple) for multiple in (1, 4))
    assert short.targets is not None
    assert long.targets is not None
    assert short.prompts.context is not None
    assert long.prompts.context is not None
    assert (short.targets.tokens.shape, long.targets.tokens.shape) == ((2, 5), (2, 8))
    assert (short.prompts.context.shape, long.prompts.context.shape) == ((2, 1), (2, 4))
    for before, after, filling in (
        (short.targets.tokens, long.targets.tokens, PAD),
        (short.prompts.context, long.prompts.context, PAD),
        (short.targets.located, long.targets.located, False),
        (short.targets.locations, long.targets.locations, 0.0),
    ):
        assert torch.equal(after[:, : before.shape[1]], before)
        assert (after[:, before.shape[1] :] == filling).all()
    same = collate(samples, 4, PAD, 5)
    assert same.targets is not None
    assert same.targets.tokens.shape == (2, 5)
