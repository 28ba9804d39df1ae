"""Writing captions token by token with a cache, keeping the state that each word's location is read from.

Both searches return, beside the tokens, the hidden state after every input token, so that locations need no
second pass. Published traits kept for everybody: the last slot is reserved for </s>, the greedy score is the
sum of all log-probabilities over the number of words, the beam score is penalised by length (Wu et al. 2016).
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

_IMPOSSIBLE = -1.0e7


@dataclass(frozen=True)
class DecodingRule:
    """How to search.

    max_tokens: length of the longest sequence, <bos> and </s> included.
    beams: 1 is greedy.
    length_penalty: alpha of the beam score log p / ((5 + length) / 6) ** alpha.
    candidates_per_beam: this many times `beams` continuations are looked at in a step; with 2 or more there
        are always enough that go on, since each beam can end in only one way.
    forbid_repeat: greedy never writes a token twice in a row (the published greedy rule, not its beams').
    """

    max_tokens: int = 128
    beams: int = 1
    length_penalty: float = 0.6
    candidates_per_beam: int = 2
    forbid_repeat: bool = False


@dataclass
class Decoded:
    """Rows of P prompts.

    tokens: int[P, T], <bos> first, padded behind </s>.
    hidden: float[P, T - 1, D], row t after reading token t; zero where nothing was read.
    scores: float[P].
    """

    tokens: Tensor
    hidden: Tensor
    scores: Tensor


class Continued(Protocol):
    """What a search asks of a model; the meaning is that of `pixel_llm.core.language_model.LanguageModel`."""

    width: int
    eos_id: int
    pad_id: int

    def start(self, prefix: Any) -> Any: ...
    def step(self, state: Any, tokens: Tensor) -> Tensor: ...
    def reorder(self, state: Any, index: Tensor) -> None: ...
    def logits(self, hidden: Tensor) -> Tensor: ...


def decode(language_model: Continued, prefix: Any, first: Tensor, rule: DecodingRule) -> Decoded:
    """Continue each prompt's prefix from its first token (int[P], usually <bos>) by `rule`."""
    if rule.max_tokens < 3:
        raise ValueError(f"max_tokens={rule.max_tokens} leaves no room for a word between <bos> and </s>")
    search = _greedy if rule.beams == 1 else _beam_search
    return search(language_model, prefix, first, rule)


def _greedy(lm: Continued, prefix: Any, first: Tensor, rule: DecodingRule) -> Decoded:
    rows = len(first)
    tokens = first.new_full((rows, rule.max_tokens), lm.pad_id)
    tokens[:, 0] = first
    scores, words = torch.zeros(rows, device=first.device), torch.zeros(rows, device=first.device)
    state, token, active = lm.start(prefix), first, torch.arange(rows, device=first.device)
    steps: list[tuple[Tensor, Tensor]] = []
    while len(active):
        hidden = lm.step(state, token)
        steps.append((active, hidden))
        if len(steps) == rule.max_tokens - 1:
            tokens[active, -1] = lm.eos_id
            break
        best, token = _next_logp(lm, hidden, token if rule.forbid_repeat else None).max(-1)
        scores[active] += best
        tokens[active, len(steps)] = token
        going = (token != lm.eos_id).nonzero()[:, 0]
        if len(going) < len(active):  # finished rows leave the batch
            active, token = active[going], token[going]
            lm.reorder(state, going)
        words[active] += 1
    states = hidden.new_zeros(rows, len(steps), lm.width)
    for position, (index, values) in enumerate(steps):
        states[index, position] = values
    return Decoded(tokens[:, : len(steps) + 1], states, scores / words.clamp(min=1))


def _next_logp(lm: Continued, hidden: Tensor, forbidden: Tensor | None = None) -> Tensor:
    """float[..., D] -> float[..., V] log-probabilities of the next token; forbidden: int[...] of one each."""
    logits = lm.logits(hidden).float()
    if forbidden is not None:
        logits.scatter_(-1, forbidden[..., None], logits.gather(-1, forbidden[..., None]).clamp(max=-1.0e4))
    return logits.log_softmax(-1)


@dataclass
class _Beams:
    """K hypotheses for each of P prompts, best last.

    tokens: int[P, K, T].  paths: int[P, K, T - 1], the beam that carried the hypothesis at each step.
    scores: float[P, K].
    """

    tokens: Tensor
    paths: Tensor
    scores: Tensor

    def select(self, index: Tensor, scores: Tensor) -> "_Beams":
        """Keep hypotheses index (int[P, K']) with new scores."""
        rows = torch.arange(len(index), device=index.device)[:, None]
        return _Beams(self.tokens[rows, index], self.paths[rows, index], scores)

    def join(self, other: "_Beams") -> "_Beams":
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return _Beams(*(torch.cat(pair, dim=1) for pair in pairs))

    def best(self, k: int) -> "_Beams":
        scores, index = self.scores.topk(k, dim=1)
        return self.select(index.flip(1), scores.flip(1))


def _penalty(length: int, alpha: float) -> float:
    return ((5 + length) / 6) ** alpha


def _continuations(beams: _Beams, logp: Tensor, position: int, count: int) -> tuple[_Beams, Tensor]:
    """The `count` likeliest continuations of all beams together by one token, and that token: int[P, count].

    logp: float[P, K, V] of the next token.
    """
    scores, index = (beams.scores[:, :, None] + logp).flatten(1).topk(count)
    parents = index.div(logp.shape[-1], rounding_mode="floor")
    token = index % logp.shape[-1]
    grown = beams.select(parents, scores)
    grown.tokens[..., position] = token
    grown.paths[..., position - 1] = parents
    return grown, token


def _beam_search(lm: Continued, prefix: Any, first: Tensor, rule: DecodingRule) -> Decoded:
    rows, k, length = len(first), rule.beams, rule.max_tokens
    tokens = first.new_full((rows, k, length), lm.eos_id)
    tokens[..., 0] = first[:, None]
    scores = torch.full((rows, k), _IMPOSSIBLE, device=first.device)
    paths = first.new_zeros(rows, k, length - 1)
    ended = _Beams(tokens.clone(), paths, scores)
    scores = scores.index_fill(1, torch.tensor([k - 1], device=first.device), 0.0)
    live = _Beams(tokens, paths.clone(), scores)
    state, steps = lm.start(prefix), []
    base = torch.arange(rows, device=first.device)[:, None] * k
    lm.reorder(state, base.expand(-1, k).flatten() // k)
    for position in range(1, length):
        steps.append(lm.step(state, live.tokens[..., position - 1].flatten()).unflatten(0, (rows, k)))
        if position == length - 1:
            live.paths[..., -1] = torch.arange(k, device=first.device)
            break
        grown, token = _continuations(live, _next_logp(lm, steps[-1]), position, k * rule.candidates_per_beam)
        over = token == lm.eos_id
        live = _Beams(grown.tokens, grown.paths, grown.scores + over * _IMPOSSIBLE).best(k)
        final = torch.where(over, grown.scores / _penalty(position, rule.length_penalty), _IMPOSSIBLE)
        ended = ended.join(_Beams(grown.tokens, grown.paths, final)).best(k)
        if ended.scores.amin() > live.scores[:, -1].amax() / _penalty(length, rule.length_penalty):
            break
        lm.reorder(state, (base + live.paths[..., position - 1]).flatten())
    return _finish(lm, live, ended, torch.stack(steps, dim=2))


def _finish(lm: Continued, live: _Beams, ended: _Beams, states: Tensor) -> Decoded:
    """The best ended hypothesis of each prompt, or the best live one where none ended, with its states.

    states: float[P, K, T', D] of the beams' slots at each step.
    """
    none_ended = ended.scores[:, -1] <= _IMPOSSIBLE / 2
    tokens = torch.where(none_ended[:, None], live.tokens[:, -1], ended.tokens[:, -1])
    paths = torch.where(none_ended[:, None], live.paths[:, -1], ended.paths[:, -1])
    scores = torch.where(none_ended, live.scores[:, -1], ended.scores[:, -1])
    is_end = (tokens == lm.eos_id).long()
    is_end[:, 0] = 0
    behind = is_end.cumsum(1) - is_end > 0
    length = int((~behind).sum(1).max())
    tokens, behind = tokens.masked_fill(behind, lm.pad_id)[:, :length], behind[:, 1:length]
    index = paths[:, None, : length - 1, None].expand(-1, 1, -1, states.shape[-1])
    hidden = states[:, :, : length - 1].gather(1, index)[:, 0].masked_fill(behind[..., None], 0)
    return Decoded(tokens, hidden, scores)
