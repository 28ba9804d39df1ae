"""Any decoder-only text model of transformers as a backbone.

The model keeps its own code and weights. It is given embeddings, a mask and a cache of ours, and its rotary positions
are replaced by those with three axes, with its own frequencies. Whether it then still says of a plain text what it said
before is tried when it is wrapped, so that a kind of model that does more than that is refused, not read wrongly.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.cache_utils import Cache

from pixel_llm.pixel_sail.backbone import EncoderFreeBackbone, Past
from pixel_llm.pixel_sail.key_values import KeyValues
from pixel_llm.pixel_sail.rotary import RotaryPositions
from pixel_llm.special_tokens import SpecialTokens


class HuggingFaceBackbone(EncoderFreeBackbone):
    """Wraps a model such as Qwen2, Qwen3 or Llama, in place.

    model: a `...ForCausalLM`.  special: its vocabulary is grown, or cut, to words and these symbols; rows of symbols
        begin near the mean of the words'.
    Raises ValueError for a model whose positions are not plain rotary ones, or which does something to states or
    logits that a backbone does not.
    """

    def __init__(self, model: Any, special: SpecialTokens) -> None:
        super().__init__()
        kind = type(model).__name__
        rotary: Any = getattr(model.base_model, "rotary_emb", None)
        if not isinstance(getattr(rotary, "inv_freq", None), Tensor) or not hasattr(rotary, "attention_scaling"):
            raise ValueError(f"{kind}: no rotary positions of one kind, which a backbone needs")
        if rotary.rope_type in ("dynamic", "longrope"):
            raise ValueError(f"{kind}: its rotary positions change with the length of the text ({rotary.rope_type})")
        model.set_attn_implementation("sdpa")  # others read masks of another form
        expected = _logits_of_some_text(model)
        model.base_model.rotary_emb = _Rotary(rotary.inv_freq, rotary.attention_scaling)
        self.model, self.width = model, model.get_input_embeddings().embedding_dim
        if not torch.allclose(self._logits_of_some_text(), expected, rtol=1e-3, atol=1e-3 * float(expected.std())):
            raise ValueError(f"{kind}: it does more than layers, a final norm and an output layer")
        model.resize_token_embeddings(special.vocabulary_size, mean_resizing=False)
        self.vocabulary_size = special.vocabulary_size
        tables = {id(table.weight): table.weight for table in (model.get_input_embeddings(), self._output)}
        for table in tables.values():
            start_symbols(table.data, special.first)

    @classmethod
    def of(cls, source: str, special: SpecialTokens) -> "HuggingFaceBackbone":
        """With random weights, by the configuration of a folder in the transformers format or a model of the hub."""
        config = from_source(AutoConfig, source)
        return cls(AutoModelForCausalLM.from_config(config, trust_remote_code=False), special)

    @property
    def _output(self) -> Any:
        return self.model.get_output_embeddings()

    def embed(self, tokens: Tensor) -> Tensor:
        return self.model.get_input_embeddings()(tokens)

    def forward(
        self, embeddings: Tensor, positions: Tensor, attend: Tensor, past: Past | None
    ) -> tuple[Tensor, KeyValues]:
        before = cast(KeyValues | None, past)
        cache = _Cache(before)
        states = self.model.base_model(
            inputs_embeds=embeddings,
            attention_mask=attend[:, None],
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        keys, values = ([part[number] for number in sorted(part)] for part in (cache.keys, cache.values))
        keys[-1] = _Together.apply(keys[-1], states)
        return states, KeyValues(keys, values) if before is None else before.grown(keys, values)

    def logits(self, states: Tensor) -> Tensor:
        return self._output(states)

    def _logits_of_some_text(self) -> Tensor:
        with torch.no_grad():
            tokens = _some_text(self.model)
            places = torch.arange(tokens.shape[1], device=tokens.device)
            attend = (places <= places[:, None])[None]
            return self.logits(self(self.embed(tokens), places[None, :, None].expand(1, -1, 3), attend, None)[0])


def from_source(reader: Any, source: str, **arguments: Any) -> Any:
    """What a class of transformers reads `from_pretrained`; no code of the source's is run.

    Raises FileNotFoundError where there is nothing at `source` and the hub cannot be reached or does not know it.
    """
    try:
        return reader.from_pretrained(source, trust_remote_code=False, **arguments)
    except OSError:
        raise FileNotFoundError(
            f"{source}: no folder in the transformers format, and no model of the hub that was downloaded before or "
            f"can be now; where there is a network: hf download {source}"
        ) from None


@torch.no_grad()
def start_symbols(table: Tensor, words: int) -> None:
    """Rows of a vocabulary's table, float[V, D], from `words` on: the mean of those before, and a little apart.

    At the mean no symbol is likelier than words at first; were they equal, regions could not be told apart.
    """
    known = table[:words]
    noise = torch.randn_like(table[words:]) * known.std(0)
    table[words:] = known.mean(0) + 0.1 * noise


def _some_text(model: nn.Module) -> Tensor:
    return torch.arange(3, device=next(model.parameters()).device)[None]


def _logits_of_some_text(model: Any) -> Tensor:
    with torch.no_grad():
        return model(input_ids=_some_text(model)).logits


class _Rotary(nn.Module):
    """As transformers calls it, with positions int[N, L, 3]."""

    def __init__(self, frequencies: Tensor, scale: float) -> None:
        super().__init__()
        self.positions = RotaryPositions(frequencies, scale)

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        cosine, sine = self.positions(position_ids)
        return cosine.to(x.dtype), sine.to(x.dtype)


class _Cache(Cache):
    """The keys and values of one pass, by layer; what was read before stays as it is.

    A layer that is computed again in the backward pass gives the same once more.
    """

    def __init__(self, past: KeyValues | None) -> None:
        super().__init__(layers=[])
        self.past = past
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if self.past is not None:
            key_states, value_states = self.past.layer(layer_idx).extend(key_states, value_states)
        self.keys[layer_idx], self.values[layer_idx] = key_states, value_states
        return key_states, value_states

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0 if self.past is None else self.past.length


class _Together(torch.autograd.Function):
    """Keys as they are, but the last layer's output gets a gradient too, of zeros, where only its keys are used.

    A sharded layer is gathered for the backward pass when a gradient reaches its output.
    """

    @staticmethod
    def forward(ctx: Any, keys: Tensor, states: Tensor) -> Tensor:
        ctx.shape, ctx.options = states.shape, {"dtype": states.dtype, "device": states.device}
        return keys.view_as(keys)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        return gradients[0], torch.zeros(ctx.shape, **ctx.options)
