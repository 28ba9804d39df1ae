"""Released text models in our own transformer and in the adapter say what they say in transformers."""

from pathlib import Path

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from pixel_llm.pixel_sail.hugging_face import HuggingFaceBackbone
from pixel_llm.weights.start import StartingWeights
from pixel_llm.weights.text_base import load_text_base
from tests.pixel_sail.models import SPECIAL, WIDTH, asked, canvases, tiny_sail, tiny_transformer

SIZES = {
    "vocab_size": 64, "hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
}  # fmt: skip
TEXT = torch.tensor([[5, 6, 7, 8, 9]])


def saved(folder: Path, tied: bool) -> Qwen2ForCausalLM:
    torch.manual_seed(4)
    model = Qwen2ForCausalLM(Qwen2Config(**SIZES, tie_word_embeddings=tied)).eval()
    for value in model.parameters():
        torch.nn.init.normal_(value, std=0.2)
    model.save_pretrained(folder)
    return model


def test_starting_weights_name_it(tmp_path: Path) -> None:
    """And a single transformer's checkpoint; parts that only a PixelLLM has are refused in one line."""
    saved(tmp_path / "base", tied=True)
    model, wanted = tiny_sail(), tiny_transformer()
    load_text_base(wanted, str(tmp_path / "base"), SPECIAL)
    words = {name: value for name, value in wanted.state_dict().items() if name != "embed_tokens.weight"}
    StartingWeights(language_model=str(tmp_path / "base")).load(model)
    assert all(torch.equal(model.backbone.state_dict()[name], value) for name, value in words.items())
    state = {f"core.{name}": value + 1 for name, value in model.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "a.ckpt")
    again = tiny_sail()
    StartingWeights(core=str(tmp_path / "a.ckpt")).load(again)
    assert all(torch.equal(value, state[f"core.{name}"]) for name, value in again.state_dict().items())
    with pytest.raises(ValueError, match=r"^starting weights: a PixelSail has no 'tuned_encoder'$"):
        StartingWeights(tuned_encoder="timm/eva02").load(model)


@pytest.mark.parametrize("tied", [True, False])
def test_qwen2_in_the_native_transformer_equals_transformers(tmp_path: Path, tied: bool) -> None:
    with torch.no_grad():
        expected = saved(tmp_path, tied)(input_ids=TEXT).logits[..., : SPECIAL.first]
    backbone = tiny_transformer(tied=tied)
    load_text_base(backbone, str(tmp_path), SPECIAL)
    sail = tiny_sail(backbone)
    read = sail.encode_images(*canvases((0, 0), side=(8, 8)))
    said = sail(read, asked([0], None), TEXT).logits[..., : SPECIAL.first]
    torch.testing.assert_close(said, expected, atol=1e-5, rtol=1e-5)


def test_the_adapter_and_the_native_transformer_read_an_image_alike(tmp_path: Path) -> None:
    saved(tmp_path, True)
    ours = tiny_transformer()
    load_text_base(ours, str(tmp_path), SPECIAL)
    theirs = HuggingFaceBackbone.of(str(tmp_path), SPECIAL)
    load_text_base(theirs, str(tmp_path), SPECIAL)
    theirs.model.get_input_embeddings().weight.data.copy_(ours.embed_tokens.weight)  # symbols begin at random
    images = canvases((24, 10), (16, 16), side=(24, 16))
    said = []
    for backbone in (ours, theirs):
        sail = tiny_sail(backbone)
        said.append(sail(sail.encode_images(*images), asked([0, 0, 1], [[5], [6, 7], [8]]), TEXT.expand(3, -1)))
    torch.testing.assert_close(said[0].logits, said[1].logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"feed_forward": 40}, "another size"),
        ({"heads": 8, "key_value_heads": 4}, "other heads, positions"),
        ({"rope_base": 100.0}, "other heads, positions"),
        ({}, "another output layer"),
    ],
)
def test_a_base_of_another_form_is_refused(tmp_path: Path, changes: dict[str, object], reason: str) -> None:
    saved(tmp_path, tied=bool(changes))
    with pytest.raises(ValueError, match=reason):
        load_text_base(tiny_transformer(**changes), str(tmp_path), SPECIAL)


def test_another_kind_of_base_is_refused(tmp_path: Path) -> None:
    Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=8)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="does not fit"):
        load_text_base(tiny_transformer(), str(tmp_path), SPECIAL)


def test_nothing_at_the_source_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no folder in the transformers format"):
        load_text_base(tiny_transformer(), str(tmp_path / "nothing"), SPECIAL)
