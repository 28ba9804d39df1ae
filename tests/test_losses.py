"""The losses against torch, torchvision and the formulas written out."""

import pytest
import torch
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from pixel_llm.losses import (
    dice_loss,
    focal_loss,
    location_distance,
    mask_loss,
    smoothed_cross_entropy,
    supervised_tokens,
    trace_caption_loss,
)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
def test_smoothing_spreads_over_the_wrong_words(smoothing: float) -> None:
    vocabulary = 11
    logits, targets = torch.randn(2, 5, vocabulary), torch.randint(0, vocabulary, (2, 5))
    got = smoothed_cross_entropy(logits, targets, smoothing)
    # torch spreads over all V words, the right one included: its s' with s' (V - 1) / V = s is the same
    theirs = smoothing * vocabulary / (vocabulary - 1)
    wanted = F.cross_entropy(logits.transpose(1, 2), targets, label_smoothing=theirs, reduction="none")
    torch.testing.assert_close(got, wanted)


def test_without_smoothing_it_is_cross_entropy_also_in_half_precision() -> None:
    logits, targets = torch.randn(7, 30), torch.randint(0, 30, (7,))
    got = smoothed_cross_entropy(logits.bfloat16(), targets, 0.0)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, F.cross_entropy(logits.bfloat16().float(), targets, reduction="none"))


def test_padding_and_empty_captions_do_not_count() -> None:
    targets = torch.tensor([[5, 6, 1, 0], [1, 0, 0, 0], [7, 1, 0, 0]])
    wanted = [[True, True, True, False], [False] * 4, [True, True, False, False]]
    assert supervised_tokens(targets, pad_id=0, eos_id=1).tolist() == wanted


def test_distance_is_in_pixels_of_the_canvas() -> None:
    predicted = torch.tensor([[[[0.0, 0.0], [0.5, 0.5]]]])
    truth = torch.tensor([[[[0.1, 0.2], [0.5, 1.0]]]])
    scale = torch.tensor([[300.0, 200.0]])  # width, height
    assert location_distance(predicted, truth, scale).item() == pytest.approx((30 + 40 + 0 + 100) / 4)


@pytest.mark.parametrize("normalisation", ["joint", "separate"])
def test_equation_4_written_out(normalisation: str) -> None:
    words, distance = torch.rand(3, 6), torch.rand(3, 6) * 100
    supervised, located = torch.rand(3, 6) > 0.3, torch.rand(3, 6) > 0.6
    word_sum = location_sum = n = m = 0.0
    for row in range(3):
        for token in range(6):
            if supervised[row, token]:
                word_sum, n = word_sum + words[row, token].item(), n + 1
            if located[row, token]:
                location_sum, m = location_sum + distance[row, token].item(), m + 1
    loss = trace_caption_loss(words, supervised, distance, located, 0.1, normalisation)
    place = location_sum / (n if normalisation == "joint" else m)
    assert loss.words.item() == pytest.approx(word_sum / n, rel=1e-5)
    assert loss.locations.item() == pytest.approx(place, rel=1e-5)
    assert loss.total.item() == pytest.approx(word_sum / n + 0.1 * place, rel=1e-5)


@pytest.mark.parametrize("normalisation", ["joint", "separate"])
def test_without_locations_or_words_the_terms_are_zero(normalisation: str) -> None:
    words = torch.rand(2, 3, requires_grad=True)
    distance = torch.full((2, 3), float("nan"), requires_grad=True)  # undefined where nothing is located
    none, every = torch.zeros(2, 3, dtype=torch.bool), torch.ones(2, 3, dtype=torch.bool)
    loss = trace_caption_loss(words, every, distance, none, 0.1, normalisation)
    assert loss.locations == 0
    torch.testing.assert_close(loss.total, words.mean())
    loss.total.backward()
    assert words.grad.isfinite().all()
    assert trace_caption_loss(words, none, distance, none, 0.1, normalisation).total == 0


@pytest.mark.parametrize(("alpha", "gamma"), [(0.5, 2.0), (0.25, 2.0), (0.8, 0.5)])
def test_focal_loss_equals_torchvision(alpha: float, gamma: float) -> None:
    logits, target = torch.randn(3, 8, 8) * 4, (torch.rand(3, 8, 8) > 0.5).float()
    wanted = sigmoid_focal_loss(logits, target, alpha, gamma)
    torch.testing.assert_close(focal_loss(logits, target, alpha, gamma), wanted)


def test_dice_of_a_perfect_and_of_a_disjoint_mask() -> None:
    target = torch.zeros(1, 10, 10)
    target[:, :5] = 1
    assert dice_loss((target - 0.5) * 200, target).item() == pytest.approx(0, abs=1e-6)
    assert dice_loss((0.5 - target) * 200, target).item() == pytest.approx(1 - 1 / 101)


def test_mask_loss_is_of_the_best_mask_of_valid_prompts_inside_the_image() -> None:
    truth = torch.zeros(3, 8, 8, dtype=torch.bool)
    truth[:, 2:6, 2:5] = True
    real = torch.ones_like(truth)
    real[1, :, 6:] = False
    logits, iou = torch.randn(3, 2, 8, 8), torch.rand(3, 2)
    loss = mask_loss(logits, iou, truth, torch.tensor([True, True, False]), real)
    total = errors = 0.0
    for prompt in (0, 1):
        target, scores = truth[prompt].float(), []
        for mask in range(2):
            one = logits[prompt, mask]
            focal = sigmoid_focal_loss(one, target, alpha=0.5, gamma=2.0)[real[prompt]].mean()
            p = one.sigmoid()
            dice = 1 - (2 * (p * target).sum() + 1) / (p.sum() + target.sum() + 1)
            actual = ((one > 0) & truth[prompt]).sum() / ((one > 0) | truth[prompt]).sum()
            scores.append((20 * focal + dice).item())
            errors += ((iou[prompt, mask] - actual) ** 2).item() / 2
        total += min(scores)
    assert loss.iou.item() == pytest.approx(errors / 2, rel=1e-4)
    assert loss.total.item() == pytest.approx(total / 2 + errors / 2, rel=1e-4)


def test_mask_loss_without_a_valid_prompt_is_zero() -> None:
    empty = torch.zeros(2, 8, 8, dtype=torch.bool)
    loss = mask_loss(torch.randn(2, 1, 2, 2), torch.rand(2, 1), empty, empty[:, 0, 0], ~empty)
    assert loss.total == 0
