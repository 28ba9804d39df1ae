"""What the adapters add to the corners of a box, and what that depends on."""

import pytest
import torch

from pixel_llm.core.mask_adapter import GatedMaskAdapter, LearnedEmbedding


@pytest.fixture
def gated():
    torch.manual_seed(0)
    adapter = GatedMaskAdapter(visual_width=12, hidden_width=20, width=16, depth=2, heads=2, mlp=32)
    with torch.no_grad():
        adapter.gate.normal_()
    return adapter


def features(prompts=3):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(prompts, 4, 12, generator=generator), torch.randn(prompts, 6, 20, generator=generator)


def test_both_start_by_adding_nothing():
    for adapter in (LearnedEmbedding(16), GatedMaskAdapter(12, 20, 16, heads=2, mlp=32)):
        assert torch.equal(adapter(*features()), torch.zeros(3, 2, 16))


def test_the_gate_opens_by_learning():
    """Its own gradient is there from the start, that of what it gates is not."""
    adapter = GatedMaskAdapter(12, 20, 16, heads=2, mlp=32)
    adapter(*features()).sum().backward()
    assert adapter.gate.grad is not None
    assert adapter.gate.grad.abs().min() > 0
    assert adapter.tokens.grad is not None
    assert not adapter.tokens.grad.any()


def test_a_learned_embedding_is_the_same_for_all():
    adapter = LearnedEmbedding(16)
    with torch.no_grad():
        adapter.embedding.normal_()
    first, second = adapter(*features()), adapter(*(10 * values for values in features()))
    assert torch.equal(first, second)
    assert torch.equal(first[0], first[2])


@torch.no_grad()
def test_a_prompt_reads_its_own_features_only(gated):
    visual, hidden = features()
    together = gated(visual, hidden)
    for prompt in range(3):
        torch.testing.assert_close(together[prompt : prompt + 1], gated(visual[[prompt]], hidden[[prompt]]))
    assert not torch.allclose(together[0], together[1])


@torch.no_grad()
def test_states_that_are_not_valid_do_not_count(gated):
    visual, hidden = features(1)
    valid = torch.arange(6)[None] < 4
    masked = gated(visual, hidden, valid)
    torch.testing.assert_close(masked, gated(visual, hidden[:, :4]))
    assert not torch.allclose(masked, gated(visual, hidden))
