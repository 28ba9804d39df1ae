"""Models of transformers as backbones: with a plain text they say what they said, with images what ours would."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from pixel_llm.core.decoding import DecodingRule
from pixel_llm.pixel_sail.hugging_face import HuggingFaceBackbone
from tests.pixel_sail.models import BOS, EOS, SPECIAL, asked, canvases, padded, tiny_sail

SIZES = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "tie_word_embeddings": False,
}  # fmt: skip
SCALED = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
KINDS: dict[str, Any] = {
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES)),
    "qwen2_tied": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES | {"tie_word_embeddings": True})),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=16)),
    "llama": lambda: LlamaForCausalLM(
        LlamaConfig(**SIZES, rope_parameters=SCALED | {"original_max_position_embeddings": 64})
    ),
}


def made(kind: str) -> Any:
    torch.manual_seed(3)
    model = KINDS[kind]().eval()
    for value in model.parameters():  # their usual start is so near zero that attention hardly shows
        torch.nn.init.normal_(value, std=0.2)
    return model


@pytest.fixture(scope="module", params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def test_without_an_image_it_is_the_model_it_was(kind: str) -> None:
    model = made(kind)
    tokens = torch.tensor([[5, 6, 7, BOS, 8, 9], [10, 11, 12, BOS, 13, 14]])
    with torch.no_grad():
        expected = model(input_ids=tokens).logits
    sail = tiny_sail(HuggingFaceBackbone(model, SPECIAL))
    read = sail.encode_images(*canvases((0, 0), (0, 0), side=(16, 16)))
    said = sail(read, asked([0, 1], [[5, 6, 7], [10, 11, 12]]), tokens[:, 3:])
    torch.testing.assert_close(said.logits[..., :50], expected[:, 3:], atol=1e-5, rtol=1e-5)


def test_two_passes_and_cached_decoding_equal_one_sequence_under_a_dense_mask(kind: str) -> None:
    sail = tiny_sail(HuggingFaceBackbone(made(kind), SPECIAL))
    images, sizes = canvases((24, 16), (16, 16), side=(24, 16))
    read, prompts = sail.encode_images(images, sizes), asked([0, 0, 1], [[5, 6], [7], [8, 9]])
    found = sail.generate(read, prompts, DecodingRule(max_tokens=8))
    again = sail(read, prompts, found.tokens[:, :-1])
    for row, tokens in enumerate(found.tokens.tolist()):
        length = tokens.index(EOS) if EOS in tokens else len(tokens) - 1
        torch.testing.assert_close(found.hidden[row, :length], again.hidden[row, :length], atol=1e-4, rtol=1e-4)
    dense = whole(sail, images[0], [5, 6, *found.tokens[0, :-1].tolist()])
    torch.testing.assert_close(again.hidden[0], dense[10:], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(read.states[0], dense[1:7], atol=1e-4, rtol=1e-4)


def whole(sail: Any, image: Tensor, text: list[int]) -> Tensor:
    """States of an image of 3 x 2 patches and a text, read by the model's own code with a float mask."""
    pixels = sail.patch_embedding(image[None], torch.tensor([[24, 16]]))[0].flatten(1).T
    table = sail.backbone.model.get_input_embeddings()
    embeddings = table(torch.tensor([SPECIAL.image, *[SPECIAL.patch] * 6, SPECIAL.image_end, *text]))
    embeddings[1:7] += pixels
    length = len(embeddings)
    mask = torch.full((length, length), -1e9).triu(1)
    mask[:8, :8] = 0
    corners = [(0, 0), (1, 1), (1, 2), (2, 1), (2, 2), (3, 1), (3, 2), *((t, t) for t in range(4, 5 + len(text)))]
    places = torch.tensor([(0, row, column) for row, column in corners])
    read = sail.backbone.model.base_model(
        inputs_embeds=embeddings[None], attention_mask=mask[None, None], position_ids=places[None]
    )
    return read.last_hidden_state[0]


def test_gradients_come_back_through_the_images_cache_with_layers_computed_again_or_not() -> None:
    sail = tiny_sail(HuggingFaceBackbone(made("qwen3"), SPECIAL))
    images, sizes = canvases((24, 16), side=(24, 16))

    def gradients() -> dict[str, Tensor]:
        sail.zero_grad()
        read = sail.encode_images(images, sizes)
        said = sail(read, asked([0, 0], [[5, 6], [7, 8]]), padded([[1, 9, 2], [1, 10, 2]]))
        said.logits.logsumexp(-1).sum().backward()
        return {name: value.grad.clone() for name, value in sail.named_parameters() if value.grad is not None}

    plain = gradients()
    assert plain["patch_embedding.linear.weight"].abs().sum() > 0
    assert len(plain) == len(list(sail.parameters()))
    for layer in sail.backbone.model.base_model.layers:
        inside = layer.forward
        layer.forward = lambda *a, inside=inside, **k: torch.utils.checkpoint.checkpoint(
            inside, *a, use_reentrant=False, **k
        )
    for name, value in gradients().items():
        torch.testing.assert_close(value, plain[name], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("rows", [50, 90])
def test_the_vocabulary_becomes_words_and_symbols(rows: int) -> None:
    """Released tables have as many rows as a tokenizer has words, or more."""
    model = Qwen2ForCausalLM(Qwen2Config(**SIZES | {"vocab_size": rows}))
    words = SPECIAL.first
    before = model.get_input_embeddings().weight[:words].clone()
    backbone = HuggingFaceBackbone(model, SPECIAL)
    table = backbone.embed(torch.arange(SPECIAL.vocabulary_size))
    torch.testing.assert_close(table[:words], before)
    new = table[SPECIAL.first :]
    assert (new - table[: SPECIAL.first].mean(0)).abs().max() < 0.5 * table[: SPECIAL.first].std()
    assert backbone.logits(table).shape == (SPECIAL.vocabulary_size, SPECIAL.vocabulary_size)
    assert len(new.unique(dim=0)) == len(new)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (lambda: GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=32, n_layer=1, n_head=2)), "no rotary positions"),
        (
            lambda: GraniteForCausalLM(GraniteConfig(**SIZES, logits_scaling=8.0)),
            "more than layers, a final norm",
        ),
    ],
)
def test_models_that_would_be_read_wrongly_are_refused(model: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        HuggingFaceBackbone(model(), SPECIAL)


def test_a_source_that_cannot_be_had_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match="no folder in the transformers format"):
        HuggingFaceBackbone.of(str(tmp_path / "nothing"), SPECIAL)


def test_a_model_by_the_configuration_of_a_folder(tmp_path: Path) -> None:
    Qwen3Config(**SIZES).save_pretrained(tmp_path)
    assert HuggingFaceBackbone.of(str(tmp_path), SPECIAL).vocabulary_size == SPECIAL.vocabulary_size
