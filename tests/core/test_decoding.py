"""Decoding against teacher forcing, exhaustive search, and the published numbers (tests/parity covers the latter)."""

import itertools

import pytest
import torch

from pixel_llm.core.decoding import DecodingRule, decode
from pixel_llm.core.language_model import LanguageModel
from tests.tiny import tiny_git, tiny_t5


@pytest.fixture(params=["t5", "t5_lora", "git"])
def language_model(request: pytest.FixtureRequest) -> LanguageModel:
    torch.manual_seed(0)
    models = {"t5": tiny_t5, "t5_lora": lambda: tiny_t5("lora"), "git": tiny_git}
    language_model: LanguageModel = models[request.param]().eval()
    for name, parameter in language_model.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter, std=0.3)  # as they start, adapters do nothing
    return language_model


def prefix_of(lm: LanguageModel, prompts: int = 5) -> object:
    generator = torch.Generator().manual_seed(2)
    visual = torch.randn(prompts, 4, lm.visual_width, generator=generator)
    context = torch.randint(3, 200, (prompts, 3), generator=generator)
    context[1, 1:] = lm.pad_id
    return lm.encode_prefix(visual, context)


@pytest.mark.parametrize("beams", [1, 3])
@torch.no_grad()
def test_states_of_decoding_equal_teacher_forcing(language_model: LanguageModel, beams: int) -> None:
    prefix = prefix_of(language_model)
    first = torch.full((5,), language_model.bos_id)
    decoded = decode(language_model, prefix, first, DecodingRule(max_tokens=12, beams=beams))
    forced = language_model.hidden_states(prefix, decoded.tokens[:, :-1])
    ends = (decoded.tokens == language_model.eos_id).long()
    ends[:, 0] = 0
    read = (ends.cumsum(1) == 0)[:, :-1]  # a state exists for every token before </s>
    assert read.sum() > 5
    torch.testing.assert_close(decoded.hidden[read], forced[read], atol=1e-5, rtol=0)


@torch.no_grad()
def test_greedy_takes_the_likeliest_word_each_time(language_model: LanguageModel) -> None:
    prefix = prefix_of(language_model)
    decoded = decode(language_model, prefix, torch.full((5,), language_model.bos_id), DecodingRule(max_tokens=8))
    logits = language_model.logits(language_model.hidden_states(prefix, decoded.tokens))
    for row, tokens in enumerate(decoded.tokens.tolist()):
        for position, token in enumerate(tokens[1:-1], start=1):
            if tokens[position - 1] == language_model.eos_id and position > 1:
                break
            assert token == int(logits[row, position - 1].argmax())


@torch.no_grad()
def test_cache_has_room_for_any_length(language_model: LanguageModel) -> None:
    prefix, tokens = prefix_of(language_model, 2), torch.randint(3, 200, (2, 70))
    state = language_model.start(prefix)
    stepped = torch.stack([language_model.step(state, column) for column in tokens.unbind(1)], dim=1)
    torch.testing.assert_close(stepped, language_model.hidden_states(prefix, tokens), atol=1e-5, rtol=0)


@torch.no_grad()
def test_prompts_do_not_see_each_other(language_model: LanguageModel) -> None:
    generator = torch.Generator().manual_seed(3)
    visual = torch.randn(3, 4, language_model.visual_width, generator=generator)
    rule = DecodingRule(max_tokens=9, beams=2)
    first = torch.full((3,), language_model.bos_id)
    together = decode(language_model, language_model.encode_prefix(visual, None), first, rule)
    for row in range(3):
        alone = decode(language_model, language_model.encode_prefix(visual[row : row + 1], None), first[:1], rule)
        length = alone.tokens.shape[1]
        assert together.tokens[row, :length].tolist() == alone.tokens[0].tolist()
        torch.testing.assert_close(together.scores[row], alone.scores[0], atol=1e-5, rtol=0)


class _Table:
    """Next-word logits that depend on the last word; the state is a row of the table."""

    def __init__(self, table: torch.Tensor) -> None:
        self.table, self.width = table, table.shape[1]
        self.bos_id, self.eos_id, self.pad_id = 0, 1, 2

    def start(self, prefix: None) -> None:
        return None

    def step(self, state: None, tokens: torch.Tensor) -> torch.Tensor:
        return self.table[tokens]

    def reorder(self, state: None, index: torch.Tensor) -> None:
        return None

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden


@pytest.mark.parametrize("seed", range(8))
def test_wide_beams_find_the_best_sequence(seed: int) -> None:
    """Enough beams for all prefixes make the search exhaustive: the truth is the best of all enumerated captions."""
    generator = torch.Generator().manual_seed(seed)
    logp = (2 * torch.randn(4, 4, generator=generator)).log_softmax(-1)
    lm, rule = _Table(logp), DecodingRule(max_tokens=5, beams=32)
    decoded = decode(lm, None, torch.zeros(1, dtype=torch.long), rule)  # type: ignore[arg-type]
    scores = {}
    for length in range(1, 4):
        for words in itertools.product((0, 2, 3), repeat=length - 1):
            path = [0, *words, 1]
            total = sum(float(logp[a, b]) for a, b in itertools.pairwise(path))
            scores[tuple(path)] = total / ((5 + length) / 6) ** rule.length_penalty
    best = max(scores, key=lambda path: scores[path])
    assert decoded.tokens[0, : len(best)].tolist() == list(best)
    assert float(decoded.scores[0]) == pytest.approx(scores[best], abs=1e-5)


def test_forbid_repeat_and_the_reserved_last_slot() -> None:
    table = torch.zeros(4, 4)
    table[:, 3] = 5.0  # always says 3, never ends
    first = torch.zeros(1, dtype=torch.long)
    free = decode(_Table(table), None, first, DecodingRule(max_tokens=6))  # type: ignore[arg-type]
    assert free.tokens.tolist() == [[0, 3, 3, 3, 3, 1]]
    strict = decode(_Table(table), None, first, DecodingRule(max_tokens=6, forbid_repeat=True))  # type: ignore[arg-type]
    assert all(a != b for a, b in itertools.pairwise(strict.tokens[0].tolist()))


def test_no_room_for_a_word_is_refused() -> None:
    with pytest.raises(ValueError, match="max_tokens=2"):
        decode(_Table(torch.zeros(4, 4)), None, torch.zeros(1, dtype=torch.long), DecodingRule(max_tokens=2))  # type: ignore[arg-type]
