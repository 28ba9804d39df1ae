"""From token locations to words with boxes, on cases made by hand."""

import pytest
import torch

from datamodules.tokenizer import Tokenizer, train_tokenizer
from pixel_llm.structures import Generation, Mention, Reference
from pixel_llm.tasks.trace_captioning import object_words
from pixel_llm.tasks.words import boxes_of_words, predictions, words_of_spans

CAPTION = "a red ball lies."


def corners(*boxes: tuple[float, float, float, float]) -> torch.Tensor:
    return torch.tensor(boxes).view(-1, 2, 2)


def test_a_word_has_the_mean_box_of_its_tokens() -> None:
    reference = Reference("k", "red ball", words=[(0, 3), (4, 8)], token_words=[-1, 0, 1, 1, -1])
    nowhere = (9.0, 9.0, 9.0, 9.0)
    # the second token's corners come in another order
    locations = corners(nowhere, (0.1, 0.2, 0.3, 0.4), (0.4, 0.6, 0.2, 0.2), (0.4, 0.4, 0.8, 1.0), nowhere)
    red, ball = boxes_of_words(locations, reference)
    assert red == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert ball == pytest.approx([0.3, 0.3, 0.6, 0.8])


def test_a_word_that_was_cut_off_takes_the_last_box() -> None:
    reference = Reference("k", "red ball lies", words=[(0, 3), (4, 8), (9, 13)], token_words=[-1, 0])
    assert boxes_of_words(corners((0, 0, 0, 0), (0.1, 0.2, 0.3, 0.4)), reference)[1:] == [
        pytest.approx([0.1, 0.2, 0.3, 0.4])
    ] * 2
    nothing = Reference("k", "red", words=[(0, 3)], token_words=[-1])
    assert boxes_of_words(corners((0.5, 0.5, 0.5, 0.5)), nothing) == [[0.0, 0.0, 1.0, 1.0]]


def test_object_words_are_those_that_a_mention_touches() -> None:
    box, other = (0.1, 0.1, 0.2, 0.2), (0.5, 0.5, 0.6, 0.6)
    words = [(0, 1), (2, 5), (6, 10), (11, 15)]
    mentions = [Mention(2, 10, box), Mention(12, 13, other), Mention(15, 16, other)]  # the full stop is no word
    assert object_words(Reference("k", CAPTION, words=words, mentions=mentions)) == ([1, 2, 3], [box, box, other])
    assert object_words(Reference("k", CAPTION, words=words)) == ([], [])


def test_words_of_spans_finds_repeated_words_and_leaves_out_what_no_token_gave() -> None:
    assert words_of_spans("a bb a", [(0, 1), (1, 3), (3, 4), (4, 6)]) == [("a", [0]), ("bb", [1, 2]), ("a", [3])]
    assert words_of_spans("a bb", [(0, 1)]) == [("a", [0])]
    assert words_of_spans("", []) == []


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([CAPTION] * 3, 34)  # pieces of words


def test_predictions_are_in_pixels_of_the_original_images(tokenizer: Tokenizer) -> None:
    ids = tokenizer.sequence(tokenizer.encode(CAPTION)[0], 99)
    assert len(ids) > 2 + len(CAPTION.split())
    locations = torch.rand(2, len(ids), 2, 2, generator=torch.Generator().manual_seed(0)).sort(dim=-2).values
    locations[1] = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    generation = Generation(torch.tensor([ids, ids]), locations, torch.tensor([-0.5, -2.0]))
    sizes = torch.tensor([[300, 400], [640, 480]])
    first, second = predictions(generation, ["a", "b"], torch.tensor([0, 1]), sizes, tokenizer)
    assert (first.key, first.caption, first.score) == ("a", CAPTION, -0.5)
    assert [word.text for word in first.words] == CAPTION.split()
    assert [word.box for word in second.words] == [(0.0, 0.0, 480.0, 640.0)] * 4
    x0, y0, x1, y1 = locations[0, 1].flatten().tolist()  # the first word is one token
    assert first.words[0].box == pytest.approx((400 * x0, 300 * y0, 400 * x1, 300 * y1))
    rest = locations[0, 1:-1].flatten(1).mean(0) * torch.tensor([400, 300, 400, 300])
    weights = torch.tensor([len(mine) for _, mine in words_of_spans(CAPTION, tokenizer.decode(ids)[1])]).float()
    boxes = torch.tensor([word.box for word in first.words])
    torch.testing.assert_close((boxes * weights[:, None]).sum(0) / weights.sum(), rest)


def test_predictions_lie_inside_the_image(tokenizer: Tokenizer) -> None:
    ids = torch.tensor([tokenizer.sequence(tokenizer.encode("a")[0], 99)])
    wild = torch.tensor([[-0.5, 0.25], [2.0, 1.5]]).expand(1, 3, 2, 2)
    (prediction,) = predictions(
        Generation(ids, wild, torch.zeros(1)), ["k"], torch.tensor([0]), torch.tensor([[40, 80]]), tokenizer
    )
    assert prediction.words[0].box == (0.0, 10.0, 80.0, 40.0)
