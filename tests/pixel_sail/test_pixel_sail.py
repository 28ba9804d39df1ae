"""What sees what, and that batches, caches and passes change nothing."""

from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from pixel_llm.core.decoding import DecodingRule
from pixel_llm.pixel_sail.mask_head import MaskHead
from pixel_llm.pixel_sail.pixel_sail import PixelSail, image_positions
from pixel_llm.pixel_sail.visual_prompts import VisualPromptInjection
from pixel_llm.structures import Prompts, VisualPrompts
from tests.pixel_sail.models import (
    EOS,
    PATCH,
    SPECIAL,
    WIDTH,
    asked,
    canvases,
    padded,
    past_values,
    tiny_sail,
    tiny_transformer,
)

QUESTIONS = [[5, 6, 7], [8], [9, 10, 11, 12], [13, 14]]
ANSWERS = [[1, 20, 21, 2], [1, 22, 2], [1, 23, 24, SPECIAL.seg, 2], [1, 2]]


@pytest.fixture(scope="module", params=[0.0, 1.5])
def model(request: pytest.FixtureRequest) -> PixelSail:
    return tiny_sail(tiny_transformer(image_penalty=request.param))


def whole_sequence(model: PixelSail, image: Tensor, text: list[int]) -> Tensor:
    """States of an image without padding and of a text behind it, read at once under a mask made by hand."""
    height, width = image.shape[-2:]
    rows, columns = -(-height // PATCH), -(-width // PATCH)
    pixels = model.patch_embedding(image[None], torch.tensor([[height, width]]))[0].flatten(1).T
    symbols = [SPECIAL.image, *[SPECIAL.patch] * (rows * columns), SPECIAL.image_end]
    embeddings = model.backbone.embed(torch.tensor(symbols + text))
    embeddings[1 : len(symbols) - 1] += pixels
    places = [(0, 0), *((1 + r, 1 + c) for r in range(rows) for c in range(columns))]
    places += [(1 + max(rows, columns) + t,) * 2 for t in range(1 + len(text))]
    positions = torch.tensor([[7, *place] for place in places])  # the time axis has no effect
    attend = torch.ones(len(places), len(places), dtype=torch.bool).tril()
    attend[: len(symbols), : len(symbols)] = True
    plain = model.backbone._mask

    def penalised(*asked: Any) -> Tensor:
        mask = plain(*asked)
        mask.unflatten(2, (-1, len(places)))[..., len(symbols) :, : len(symbols)] -= model.backbone.image_penalty
        return mask

    with patch.object(model.backbone, "_mask", penalised):
        return model.backbone(embeddings[None], positions[None], attend[None], None)[0][0]


def test_positions_of_the_drawn_example() -> None:
    positions, valid = image_positions((2, 2), torch.tensor([[2, 2]]))
    assert positions[0, :, 1:].tolist() == [[0, 0], [1, 1], [1, 2], [2, 1], [2, 2], [3, 3]]
    assert valid.all()


def test_two_passes_equal_one_sequence_under_a_dense_mask(model: PixelSail) -> None:
    images, sizes = canvases((30, 20), (16, 24), side=(32, 32))
    prompts = asked([0, 0, 1, 1], QUESTIONS)
    read = model.encode_images(images, sizes)
    said = model(read, prompts, padded(ANSWERS))
    for row, (question, answer) in enumerate(zip(QUESTIONS, ANSWERS, strict=True)):
        number = int(prompts.image_index[row])
        height, width = sizes[number].tolist()
        states = whole_sequence(model, images[number, :, :height, :width], question + answer)
        torch.testing.assert_close(said.hidden[row, : len(answer)], states[-len(answer) :], atol=1e-5, rtol=1e-5)
        logits = model.backbone.logits(states[-len(answer) :])
        torch.testing.assert_close(said.logits[row, : len(answer)], logits, atol=1e-5, rtol=1e-5)
        patches = read.states[number][read.valid[number, 1:-1]]
        torch.testing.assert_close(patches, states[1 : 1 + len(patches)], atol=1e-5, rtol=1e-5)


def test_a_word_of_the_text_never_changes_an_image_state(model: PixelSail) -> None:
    image = canvases((24, 24), side=(24, 24))[0][0]
    one, other = (whole_sequence(model, image, text)[:11] for text in ([5, 6, 1, 20], [9, 6, 1, 21]))
    assert torch.equal(one, other)


def test_a_pixel_changes_all_image_states(model: PixelSail) -> None:
    images, sizes = canvases((32, 24), side=(32, 40))
    before = model.encode_images(images, sizes)
    images[0, 1, 31, 23] ^= 128
    after = model.encode_images(images, sizes)
    inside = before.valid[0]
    assert (before.states != after.states).any(-1)[0][inside[1:-1]].all()
    # the first layer's keys know nothing of other patches, its outputs do: so do the second layer's keys
    changed = (past_values(before) != past_values(after)).flatten(2).any(-1)[0]
    assert changed[inside].all()


def test_what_lies_beyond_an_image_changes_nothing(model: PixelSail) -> None:
    images, sizes = canvases((30, 20), side=(32, 40))
    prompts = asked([0], [[5, 6]])
    clean = model(model.encode_images(images, sizes), prompts, padded([[1, 20, 2]]))
    images[:, :, 30:], images[:, :, :, 20:] = 99, 99
    dirty = model(model.encode_images(images, sizes), prompts, padded([[1, 20, 2]]))
    assert torch.equal(clean.logits, dirty.logits)


MIXED = [(30, 40), (17, 9), (0, 0), (64, 8)]
INDEX = [0, 0, 1, 2, 2, 3]
ASKED = [*QUESTIONS, [15, 16, 17], [18]]
ANSWERED = [*ANSWERS, [1, 25, 26, 27, 2], [1, 28, 2]]


def alone(model: PixelSail, number: int, row: int) -> Tensor:
    """Logits of a row's answer where nothing else is in the batch and nothing is padded."""
    images, _ = canvases(*MIXED, side=(64, 48))
    height, width = MIXED[number]
    read = model.encode_images(images[number : number + 1, :, :height, :width], torch.tensor([[height, width]]))
    return model(read, asked([0], [ASKED[row]]), torch.tensor([ANSWERED[row]])).logits[0]


def test_a_batch_of_unequal_samples_equals_each_alone(model: PixelSail) -> None:
    images, sizes = canvases(*MIXED, side=(64, 48))
    said = model(model.encode_images(images, sizes), asked(INDEX, ASKED), padded(ANSWERED))
    for row, number in enumerate(INDEX):
        logits = said.logits[row, : len(ANSWERED[row])]
        torch.testing.assert_close(logits, alone(model, number, row), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("beams", [1, 3])
def test_answers_of_a_batch_are_those_of_each_alone(model: PixelSail, beams: int) -> None:
    rule = DecodingRule(max_tokens=10, beams=beams)
    images, sizes = canvases(*MIXED, side=(64, 48))
    together = model.generate(model.encode_images(images, sizes), asked(INDEX, ASKED), rule)
    for row, number in enumerate(INDEX):
        read = model.encode_images(images[number : number + 1], sizes[number : number + 1])
        single = model.generate(read, asked([0], [ASKED[row]]), rule)
        length = single.tokens.shape[1]
        assert together.tokens[row, :length].tolist() == single.tokens[0].tolist()
        torch.testing.assert_close(together.scores[row], single.scores[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("questions", "beams", "side"), [
    (ASKED, 1, (64, 48)), (ASKED, 3, (64, 48)), (None, 1, (64, 48)), (None, 3, (64, 48)),
    (ASKED, 1, (66, 45)),  # ends within a patch
])  # fmt: skip
def test_decoding_with_the_cache_equals_reading_the_answer_again(
    model: PixelSail, questions: list[list[int]] | None, beams: int, side: tuple[int, int]
) -> None:
    images, sizes = canvases(*MIXED, side=side)
    read, prompts = model.encode_images(images, sizes), asked(INDEX, questions)
    found = model.generate(read, prompts, DecodingRule(max_tokens=10, beams=beams))
    again = model(read, prompts, found.tokens[:, :-1])
    for row, tokens in enumerate(found.tokens.tolist()):
        length = tokens.index(EOS) if EOS in tokens else len(tokens) - 1
        torch.testing.assert_close(found.hidden[row, :length], again.hidden[row, :length], atol=1e-5, rtol=1e-5)
        if beams == 1:
            words = again.logits[row, : length - 1].argmax(-1).tolist()
            assert words == tokens[1:length]


def test_searching_leaves_the_images_as_they_are(model: PixelSail) -> None:
    images, sizes = canvases((16, 16), side=(16, 16))
    read, prompts = model.encode_images(images, sizes), asked([0, 0], [[5], [6]])
    before = past_values(read).clone()
    first = model.generate(read, prompts, DecodingRule(max_tokens=6))
    assert torch.equal(past_values(read), before)
    assert torch.equal(model.generate(read, prompts, DecodingRule(max_tokens=6)).tokens, first.tokens)


def test_padding_may_be_a_token_that_questions_contain(model: PixelSail) -> None:
    """As where </s> also pads, and ends the earlier turns of a conversation."""
    twin = tiny_sail(model.backbone, pad_id=EOS)
    twin.load_state_dict(model.state_dict())
    images, sizes = canvases((16, 16), side=(16, 16))
    question = [5, EOS, 6]
    ends = Prompts(torch.tensor([0]), torch.zeros(1, 4), torch.tensor([[*question, EOS, EOS]]))
    answer = torch.tensor([[1, 20, 2]])
    expected = model(model.encode_images(images, sizes), asked([0], [question]), answer)
    found = twin(twin.encode_images(images, sizes), ends, answer)
    torch.testing.assert_close(found.logits[:, :-1], expected.logits[:, :-1])  # behind the end nothing is said


@pytest.mark.parametrize("side", [(0, 0), (8, 8)])
def test_without_an_image_it_is_the_plain_language_model(model: PixelSail, side: tuple[int, int]) -> None:
    read = model.encode_images(torch.zeros(1, 3, *side, dtype=torch.uint8), torch.tensor([[0, 0]]))
    said = model(read, asked([0], [[5, 6]]), torch.tensor([[1, 7]]))
    tokens, places = torch.tensor([[5, 6, 1, 7]]), torch.arange(4)[None, :, None].expand(1, 4, 3)
    causal = torch.ones(1, 4, 4, dtype=torch.bool).tril()
    states, _ = model.backbone(model.backbone.embed(tokens), places, causal, None)
    torch.testing.assert_close(said.hidden, states[:, 2:], atol=1e-6, rtol=1e-6)


def test_gradients_of_two_passes_are_those_of_one(model: PixelSail) -> None:
    """The images' keys and values carry gradients back from every text."""
    image = canvases((24, 16), side=(24, 16))[0][0]
    texts = [([5, 6], [1, 20, 2]), ([7, 8], [1, 21, 2])]

    def gradients(loss: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad(loss, list(model.parameters())))

    read = model.encode_images(image[None], torch.tensor([[24, 16]]))
    said = model(read, asked([0, 0], [question for question, _ in texts]), torch.tensor([a for _, a in texts]))
    apart = sum(whole_sequence(model, image, question + answer)[-3:].pow(3).sum() for question, answer in texts)
    assert isinstance(apart, Tensor)
    for one, other in zip(gradients(said.hidden.pow(3).sum()), gradients(apart), strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-4)


def regions(*boxes: tuple[int, int, int, int]) -> VisualPrompts:
    """<Prompt0> and so on of the first image: rows and columns from, to on a canvas of 24 x 24."""
    masks = torch.zeros(len(boxes), 24, 24, dtype=torch.bool)
    for mask, (top, bottom, left, right) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = True
    return VisualPrompts(torch.zeros(len(boxes), dtype=torch.long), torch.arange(len(boxes)), masks)


def test_a_region_adds_to_the_embeddings_of_its_patches_alone() -> None:
    model = tiny_sail(visual_prompts=VisualPromptInjection(WIDTH))
    images, sizes = canvases((24, 24), (24, 24), side=(24, 24))
    unmarked = model.encode_images(images, sizes)
    prompts = regions((0, 10, 0, 8), (16, 24, 16, 24))
    # before training a region adds nothing
    assert torch.equal(model.encode_images(images, sizes, prompts).states, unmarked.states)
    torch.nn.init.normal_(model.visual_prompts.linear.weight)
    assert torch.equal(model.encode_images(images, sizes).states, unmarked.states)
    marked = model.encode_images(images, sizes, prompts)
    changed = (past_values(unmarked)[..., 0] != past_values(marked)[..., 0]).flatten(2).any(-1)  # the first layer's
    assert changed[0].nonzero()[:, 0].tolist() == [1, 4, 9]
    assert not changed[1].any()
    assert (marked.states[0] != unmarked.states[0]).any(-1).all()


def test_masks_are_those_of_the_mask_head_at_the_seg_tokens() -> None:
    head = MaskHead(width=WIDTH, patch=PATCH, stride=4, embedding=6)
    model = tiny_sail(mask_head=head)
    images, sizes = canvases((24, 40), (16, 16), side=(24, 40))
    read, seg = model.encode_images(images, sizes), SPECIAL.seg
    tokens = torch.tensor([[1, seg, 20, seg, 2], [1, 20, 21, seg, 2]])
    hidden = model(read, asked([0, 1], None), tokens).hidden[tokens == seg]
    features = model.mask_features(read)
    assert features.shape == (2, 6, 6, 10)
    masks = model.masks(features, hidden, torch.tensor([0, 0, 1]))
    expected = torch.einsum("se,sehw->shw", head.query(hidden), features[[0, 0, 1]])
    torch.testing.assert_close(masks, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("images", [canvases((16, 16), side=(16, 16)), canvases((0, 0), side=(0, 0))])
def test_every_parameter_gets_a_gradient_even_without_an_image(images: Any) -> None:
    """As processes that train together need."""
    model = tiny_sail(visual_prompts=VisualPromptInjection(WIDTH))
    model(model.encode_images(*images), asked([0], None), torch.tensor([[1, 20, 2]])).logits.sum().backward()
    assert [name for name, value in model.named_parameters() if value.grad is None] == []


def test_a_backbone_without_rows_for_the_symbols_is_refused() -> None:
    with pytest.raises(ValueError, match="58 words, of the 59"):
        tiny_sail(tiny_transformer(vocabulary_size=58))
