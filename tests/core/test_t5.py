"""T5 against transformers' own, and its adapters."""

import pytest
import torch

from pixel_llm.core.t5 import T5, is_lora_name
from tests.tiny import tiny_t5


@torch.no_grad()
def test_equals_transformers_on_the_same_weights() -> None:
    torch.manual_seed(0)
    ours = tiny_t5().eval()
    visual, context = torch.randn(2, 4, 12), torch.tensor([[5, 6, 7], [8, 0, 0]])
    tokens = torch.tensor([[0, 9, 10, 11], [0, 12, 13, 1]])
    embedded = torch.cat([ours.visual_projection(visual), ours.model.shared(context)], dim=1)
    mask = torch.cat([torch.ones(2, 4, dtype=torch.long), (context > 0).long()], dim=1)
    theirs = ours.model(inputs_embeds=embedded, attention_mask=mask, decoder_input_ids=tokens)
    got = ours.logits(ours.hidden_states(ours.encode_prefix(visual, context), tokens))
    torch.testing.assert_close(got, theirs.logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("sites", "stacks"), [("self_attention", 2 + 2), ("all_attention", 2 + 2 + 2)])
def test_lora_touches_exactly_its_sites(sites: str, stacks: int) -> None:
    lm = T5(
        width=16, layers=2, heads=2, head_width=8, feed_forward=24, vocabulary_size=50, visual_width=12,
        lora_rank=3, lora_sites=sites,  # type: ignore[arg-type]
    )  # fmt: skip
    trainable = {name for name, p in lm.model.named_parameters() if p.requires_grad}
    assert trainable == {name for name, _ in lm.model.named_parameters() if is_lora_name(name)}
    adapted = {name.split(".lora_")[0] for name in trainable}
    assert len(adapted) == 2 * stacks
    assert all(name.endswith((".q", ".v")) for name in adapted)
    assert any("EncDecAttention" in name for name in adapted) == (sites == "all_attention")
    assert all(p.requires_grad for p in lm.visual_projection.parameters())


def test_adapters_stay_in_float32() -> None:
    lm = tiny_t5("lora")
    assert {p.dtype for n, p in lm.named_parameters() if is_lora_name(n)} == {torch.float32}


def test_output_layer_is_not_tied() -> None:
    lm = tiny_t5()
    assert lm.model.lm_head.weight is not lm.model.shared.weight
    state = {name: torch.randn_like(value) for name, value in lm.state_dict().items()}
    lm.load_state_dict(state)
    torch.testing.assert_close(lm.model.lm_head.weight, state["model.lm_head.weight"])
    assert not torch.equal(lm.model.shared.weight, lm.model.lm_head.weight)


@torch.no_grad()
def test_padding_of_the_context_changes_nothing() -> None:
    lm = tiny_t5().eval()
    visual, tokens = torch.randn(1, 4, 12), torch.tensor([[0, 9, 10]])
    short = lm.hidden_states(lm.encode_prefix(visual, torch.tensor([[5, 6]])), tokens)
    padded = lm.hidden_states(lm.encode_prefix(visual, torch.tensor([[5, 6, 0, 0]])), tokens)
    torch.testing.assert_close(short, padded, atol=1e-5, rtol=0)


def test_features_of_the_location_head_have_no_dropout() -> None:
    torch.manual_seed(0)
    lm = T5(
        width=16, layers=1, heads=2, head_width=8, feed_forward=24, vocabulary_size=50, visual_width=12, dropout=0.5
    )
    hidden = torch.ones(1, 1, 16)
    lm.train()
    assert not torch.equal(lm.logits(hidden), lm.logits(hidden))  # dropped before the vocabulary ...
    assert isinstance(lm.model.decoder.dropout, torch.nn.Identity)  # ... and not on the states themselves
