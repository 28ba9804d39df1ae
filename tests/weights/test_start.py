"""Starting weights out of the checkpoints of earlier stages: bitwise, and one line for what does not fit."""

from pathlib import Path

import pytest
import torch
from torch import nn

from pixel_llm.core.build import pixel_llm
from pixel_llm.core.conv_encoder import ConvEncoder
from pixel_llm.core.mask_adapter import LearnedEmbedding
from pixel_llm.core.mask_decoder import MaskDecoder
from pixel_llm.core.mask_head import MaskHead
from pixel_llm.core.pixel_llm import PixelLLM
from pixel_llm.core.sam import Sam
from pixel_llm.core.t5 import T5
from pixel_llm.tasks.attribute_pretraining import AttributePretraining
from pixel_llm.tasks.base import Task
from pixel_llm.tasks.promptable_segmentation import PromptableSegmentation
from pixel_llm.tasks.text_pretraining import TextPretraining
from pixel_llm.weights.start import StartingWeights
from tests.runs import tiny_optimizer, tiny_task
from tests.tiny import VOCABULARY, tiny_core, tiny_git, tiny_sam_encoder, tiny_t5


def save(path: Path, task: Task) -> str:
    """A checkpoint as Lightning lays it out, of weights that no model starts with."""
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in task.parameters():
            parameter.normal_()
    torch.save({"state_dict": task.state_dict(), "epoch": 3, "global_step": 9}, path)
    return str(path)


def snapshot(core: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in core.state_dict().items()}


def loaded(core: PixelLLM, before: dict[str, torch.Tensor]) -> set[str]:
    """Names of the components in which anything changed."""
    return {name.split(".")[0] for name, value in core.state_dict().items() if not torch.equal(value, before[name])}


def equal(one: nn.Module, other: nn.Module) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_sam_from_promptable_segmentation(tmp_path: Path) -> None:
    stage = PromptableSegmentation(Sam(tiny_sam_encoder(), decoder_depth=1, decoder_heads=2), tiny_optimizer())
    path, core = save(tmp_path / "sam.ckpt", stage), tiny_core()
    before = snapshot(core)
    StartingWeights(sam=path).load(core)
    assert equal(core.sam_encoder, stage.core.image_encoder)
    assert equal(core.prompt_encoder, stage.core.prompt_encoder)
    assert loaded(core, before) == {"sam_encoder", "prompt_encoder"}
    assert not any(p.requires_grad for p in core.sam_encoder.parameters())


def with_masks(core: PixelLLM) -> PixelLLM:
    """The same model with a mask head whose decoder is that of `Sam(..., decoder_depth=1, decoder_heads=2)`."""
    decoder = MaskDecoder(width=16, depth=1, heads=2, mlp=128, iou_hidden=16)
    core.mask_head = MaskHead(decoder, LearnedEmbedding(16))
    return core


def test_mask_decoder_from_promptable_segmentation(tmp_path: Path) -> None:
    stage = PromptableSegmentation(Sam(tiny_sam_encoder(), decoder_depth=1, decoder_heads=2), tiny_optimizer())
    path = save(tmp_path / "sam.ckpt", stage)
    torch.save(stage.core.state_dict(), tmp_path / "official.pth")  # official files have the same names, bare
    for source in (path, str(tmp_path / "official.pth")):
        core = with_masks(tiny_core())
        before = snapshot(core)
        StartingWeights(sam=source).load(core)
        assert core.mask_head is not None
        assert equal(core.mask_head.decoder, stage.core.mask_decoder)
        assert loaded(core, before) == {"sam_encoder", "prompt_encoder", "mask_head"}


def test_a_model_with_masks_from_one_without(tmp_path: Path) -> None:
    whole, core = tiny_task(), with_masks(tiny_core())
    before = snapshot(core)
    StartingWeights(core=save(tmp_path / "whole.ckpt", whole)).load(core)
    assert "mask_head" not in loaded(core, before)
    assert all(torch.equal(core.state_dict()[name], value) for name, value in whole.core.state_dict().items())


def test_a_model_with_masks_from_another_and_never_from_half_a_mask_head(tmp_path: Path) -> None:
    whole, core = tiny_task(), with_masks(tiny_core())
    with_masks(whole.core)
    path = save(tmp_path / "whole.ckpt", whole)
    StartingWeights(core=path).load(core)
    assert equal(core, whole.core)
    with pytest.raises(ValueError, match=r"does not fit: lacks nothing; has mask_head\."):
        StartingWeights(core=path).load(tiny_core())
    tensors = whole.state_dict()
    del tensors["core.mask_head.adapter.embedding"]
    torch.save({"state_dict": tensors}, path)
    with pytest.raises(ValueError, match=r"does not fit: lacks mask_head\.adapter\.embedding"):
        StartingWeights(core=path).load(core)


def test_tuned_encoder_from_attribute_pretraining(tmp_path: Path) -> None:
    """Its checkpoint holds a whole core, under `core.`, beside the readers."""
    stage = AttributePretraining(tiny_core(), tiny_optimizer(), attributes=[3])
    path, core = save(tmp_path / "attributes.ckpt", stage), tiny_core()
    before = snapshot(core)
    StartingWeights(tuned_encoder=path).load(core)
    assert equal(core.tuned_encoder, stage.core.tuned_encoder)
    assert loaded(core, before) == {"tuned_encoder"}


def test_everything_from_attribute_pretraining(tmp_path: Path) -> None:
    stage = AttributePretraining(tiny_core(), tiny_optimizer(), attributes=[3])
    core = tiny_core()
    StartingWeights(core=save(tmp_path / "attributes.ckpt", stage)).load(core)
    assert equal(core, stage.core)


def test_language_model_from_text_pretraining(tmp_path: Path) -> None:
    for make in (tiny_t5, tiny_git):
        stage = TextPretraining(make(), tiny_optimizer())
        path, core = save(tmp_path / "text.ckpt", stage), tiny_core(make())
        before = snapshot(core)
        StartingWeights(language_model=path).load(core)
        assert equal(core.language_model, stage.core)
        assert loaded(core, before) == {"language_model"}


def test_a_language_model_with_adapters_from_one_without(tmp_path: Path) -> None:
    stage = TextPretraining(tiny_t5(), tiny_optimizer())
    path, core = save(tmp_path / "text.ckpt", stage), tiny_core(tiny_t5("lora"))
    StartingWeights(language_model=path).load(core)
    visual, tokens = torch.randn(2, 3, 12), torch.randint(3, 200, (2, 5))
    outputs = []
    for model in (stage.core.eval(), core.language_model.eval()):
        outputs.append(model.hidden_states(model.encode_prefix(visual, None), tokens))
    torch.testing.assert_close(outputs[1], outputs[0])  # adapters start at nothing


def test_the_visual_half_from_a_stage_with_another_language_model(tmp_path: Path) -> None:
    stage = AttributePretraining(tiny_core(tiny_git()), tiny_optimizer(), attributes=[3])
    path, core = save(tmp_path / "attributes.ckpt", stage), tiny_core()
    before = snapshot(core)
    StartingWeights(visual=path).load(core)
    visual = {"sam_encoder", "tuned_encoder", "prompt_encoder", "prompt_feature_extractor"}
    assert loaded(core, before) == visual
    assert all(equal(core.get_submodule(part), stage.core.get_submodule(part)) for part in visual)


def larger_t5(trainable: str = "all") -> T5:
    return T5(
        width=16, layers=2, heads=2, head_width=8, feed_forward=24, vocabulary_size=VOCABULARY + 40, visual_width=12,
        dropout=0.0, trainable=trainable, lora_rank=2,  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.mark.parametrize("trainable", ["all", "lora"])
def test_a_larger_vocabulary_keeps_the_words_that_were_known(tmp_path: Path, trainable: str) -> None:
    stage = TextPretraining(tiny_t5(), tiny_optimizer())
    path, core = save(tmp_path / "text.ckpt", stage), tiny_core(larger_t5(trainable))
    new = core.language_model.model.shared.weight[VOCABULARY:].clone()
    with pytest.raises(ValueError, match=r"another size: .* has shape \(256, 16\), the model wants \(296, 16\)"):
        StartingWeights(language_model=path).load(core)
    StartingWeights(language_model=path, larger_vocabulary=True).load(core)
    assert torch.equal(core.language_model.model.shared.weight[VOCABULARY:], new)
    visual, tokens = torch.randn(2, 3, 12), torch.randint(3, VOCABULARY, (2, 5))
    logits = []
    for model in (stage.core.eval(), core.language_model.eval()):
        logits.append(model.logits(model.hidden_states(model.encode_prefix(visual, None), tokens)))
    assert logits[1].shape[-1] == VOCABULARY + 40
    torch.testing.assert_close(logits[1][..., :VOCABULARY], logits[0], rtol=0, atol=1e-3)


def test_a_smaller_vocabulary_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "text.ckpt", TextPretraining(larger_t5(), tiny_optimizer()))
    with pytest.raises(ValueError, match=r"another size: .* has shape \(296, 16\), the model wants \(256, 16\)"):
        StartingWeights(language_model=path, larger_vocabulary=True).load(tiny_core())


def test_parts_are_loaded_over_the_core(tmp_path: Path) -> None:
    whole = tiny_task()
    text = TextPretraining(tiny_t5(), tiny_optimizer())
    core = tiny_core()
    path = save(tmp_path / "whole.ckpt", whole)
    other = save(tmp_path / "text.ckpt", text)
    with torch.no_grad():
        for parameter in text.parameters():
            parameter += 1
    torch.save({"state_dict": text.state_dict()}, other)
    StartingWeights(core=path, language_model=other).load(core)
    assert equal(core.language_model, text.core)
    assert equal(core.prompt_feature_extractor, whole.core.prompt_feature_extractor)


def test_what_does_not_fit_is_one_line(tmp_path: Path) -> None:
    stage = TextPretraining(tiny_t5(), tiny_optimizer())
    text = save(tmp_path / "text.ckpt", stage)
    for weights, message in (
        (StartingWeights(sam=text), r"text\.ckpt: no tensor named core\.image_encoder\.\*"),
        (StartingWeights(core=text), r"text\.ckpt: core\.\*: does not fit: lacks .* and \d+ more"),
        (StartingWeights(sam=str(tmp_path / "none.ckpt")), r"none\.ckpt: no such file"),
        (StartingWeights(tuned_encoder="eva02_large_patch14_224"), "released weights exist for EVA-02 only"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
            weights.load(tiny_core())
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"text\.ckpt: does not fit"):
        StartingWeights(language_model=text).load(tiny_core(tiny_git()))
    with pytest.raises(ValueError, match="released weights exist for T5, not GitDecoder"):
        StartingWeights(language_model="google/flan-t5-small").load(tiny_core(tiny_git()))


def gridded() -> PixelLLM:
    return pixel_llm(
        tiny_sam_encoder(), ConvEncoder(width=16, stride=8, blocks=1, heads=2), tiny_t5(), extractor_width=16,
        extractor_heads=2, extractor_mlp=32, query_tokens=4, location_hidden=16, location_depth=2, query_start="grid",
    )  # fmt: skip


def test_query_tokens_are_placed_again_by_the_new_position_code(tmp_path: Path) -> None:
    stage = PromptableSegmentation(Sam(tiny_sam_encoder(), decoder_depth=1, decoder_heads=2), tiny_optimizer())
    stage.core.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix.mul_(-2)
    path, core = save(tmp_path / "sam.ckpt", stage), gridded()
    first = core.prompt_feature_extractor.query_tokens.detach().clone()
    StartingWeights(sam=path).load(core)
    tokens = core.prompt_feature_extractor.query_tokens.detach().clone()
    assert not torch.equal(tokens, first)
    core.place_query_tokens()
    assert torch.equal(core.prompt_feature_extractor.query_tokens, tokens)


def test_trained_query_tokens_stay(tmp_path: Path) -> None:
    whole, core = tiny_task(), gridded()
    path = save(tmp_path / "whole.ckpt", whole)
    sam = PromptableSegmentation(Sam(tiny_sam_encoder(), decoder_depth=1, decoder_heads=2), tiny_optimizer())
    StartingWeights(core=path, sam=save(tmp_path / "sam.ckpt", sam)).load(core)
    assert equal(core.prompt_feature_extractor, whole.core.prompt_feature_extractor)


def test_random_query_tokens_stay(tmp_path: Path) -> None:
    stage = PromptableSegmentation(Sam(tiny_sam_encoder(), decoder_depth=1, decoder_heads=2), tiny_optimizer())
    core = tiny_core()
    before = core.prompt_feature_extractor.query_tokens.detach().clone()
    StartingWeights(sam=save(tmp_path / "sam.ckpt", stage)).load(core)
    assert torch.equal(core.prompt_feature_extractor.query_tokens, before)
