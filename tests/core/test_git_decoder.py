"""The GIT-style decoder: who sees whom, and decoding with a cache against teacher forcing."""

import pytest
import torch
from torch import nn

from pixel_llm.core.git_decoder import GitDecoder

TOLERANCE = {"atol": 1e-5, "rtol": 1e-4}


@pytest.fixture
def decoder():
    torch.manual_seed(0)
    sizes = {"width": 32, "layers": 3, "heads": 4, "feed_forward": 48, "vocabulary_size": 20, "positions": 12}
    decoder = GitDecoder(**sizes, visual_width=24).eval()
    for parameter in decoder.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.3)
    return decoder


@pytest.fixture
def visual():
    torch.manual_seed(1)
    return torch.randn(3, 4, 24)


CONTEXT = torch.tensor([[3, 4, 5, 6], [7, 8, 0, 0], [0, 0, 0, 0]])
TOKENS = torch.tensor([[2, 3, 4, 5, 6], [2, 9, 9, 1, 0], [2, 1, 0, 0, 0]])


@pytest.mark.parametrize("context", [None, CONTEXT])
def test_cached_steps_equal_teacher_forcing(decoder, visual, context):
    prefix = decoder.encode_prefix(visual, context)
    state = decoder.start(prefix)
    steps = torch.stack([decoder.step(state, TOKENS[:, t]) for t in range(TOKENS.shape[1])], dim=1)
    torch.testing.assert_close(steps, decoder.hidden_states(prefix, TOKENS), **TOLERANCE)


def test_reordered_rows_go_on_as_if_they_had_always_been_there(decoder, visual):
    state = decoder.start(decoder.encode_prefix(visual, CONTEXT))
    for t in range(2):
        decoder.step(state, TOKENS[:, t])
    index = torch.tensor([2, 0, 0, 1])
    decoder.reorder(state, index)
    got = decoder.step(state, TOKENS[index, 2])
    prefix = decoder.encode_prefix(visual[index], CONTEXT[index])
    torch.testing.assert_close(got, decoder.hidden_states(prefix, TOKENS[index, :3])[:, 2], **TOLERANCE)


def test_start_leaves_the_prefix_usable(decoder, visual):
    prefix = decoder.encode_prefix(visual, CONTEXT)
    before = decoder.hidden_states(prefix, TOKENS)
    decoder.step(decoder.start(prefix), TOKENS[:, 0])
    assert torch.equal(decoder.hidden_states(prefix, TOKENS), before)


def test_a_token_changes_nothing_before_it(decoder, visual):
    prefix = decoder.encode_prefix(visual, CONTEXT)
    before = decoder.hidden_states(prefix, TOKENS)
    changed = TOKENS.clone()
    changed[:, 3] = 11
    after = decoder.hidden_states(prefix, changed)
    torch.testing.assert_close(after[:, :3], before[:, :3], **TOLERANCE)
    assert not torch.allclose(after[:, 3:], before[:, 3:], atol=1e-2)


def test_padding_of_the_context_is_as_good_as_none(decoder, visual):
    padded = decoder.hidden_states(decoder.encode_prefix(visual, CONTEXT), TOKENS)
    without = decoder.hidden_states(decoder.encode_prefix(visual[2:], None), TOKENS[2:])
    shorter = decoder.hidden_states(decoder.encode_prefix(visual[1:2], CONTEXT[1:2, :2]), TOKENS[1:2])
    torch.testing.assert_close(padded[2:], without, **TOLERANCE)
    torch.testing.assert_close(padded[1:2], shorter, **TOLERANCE)


def test_visual_tokens_read_the_context(decoder, visual):
    keys = [decoder.encode_prefix(visual, context).cache[-1][0] for context in (CONTEXT, CONTEXT.flip(0))]
    assert not torch.allclose(keys[0][:, :, :4], keys[1][:, :, :4], atol=1e-2)
