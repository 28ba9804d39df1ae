"""The composed model: one pass for words and places, images encoded once, prompts independent, sizes as published."""

import pytest
import torch

from pixel_llm.core.build import eva02_large, pixel_llm, sam_image_encoder, t5
from pixel_llm.core.decoding import DecodingRule
from pixel_llm.core.git_decoder import GitDecoder
from pixel_llm.structures import Prompts
from tests.tiny import random_inputs, tiny_core, tiny_git, tiny_t5


@pytest.mark.parametrize("location_step", ["predicting", "input"])
@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("language_model", [tiny_t5, tiny_git])
@torch.no_grad()
def test_generated_locations_equal_teacher_forcing(language_model, beams: int, location_step) -> None:
    core = tiny_core(language_model(), location_step).eval()
    images, sizes, prompts = random_inputs()
    features = core.encode_images(images, sizes)
    generation = core.generate(features, prompts, DecodingRule(max_tokens=10, beams=beams))
    forced = core(features, prompts, generation.tokens).locations
    lm = core.language_model
    words = (generation.tokens != lm.eos_id) & (generation.tokens != lm.pad_id)
    words[:, 0] = False
    assert words.sum() >= 8
    torch.testing.assert_close(generation.locations[words], forced[words], atol=1e-5, rtol=0)


@torch.no_grad()
def test_location_step_reads_the_state_before_or_after_the_word() -> None:
    before, after = tiny_core(location_step="predicting").eval(), tiny_core(location_step="input").eval()
    images, sizes, prompts = random_inputs()
    tokens = torch.randint(3, 200, (4, 6), generator=torch.Generator().manual_seed(0))
    features = before.encode_images(images, sizes)
    early, late = (core(features, prompts, tokens).locations for core in (before, after))
    torch.testing.assert_close(early[:, 1:], late[:, :-1], atol=1e-6, rtol=0)
    changed = tokens.clone()
    changed[:, 3] += 1  # a word cannot influence its own place before it is said
    again = before(features, prompts, changed).locations
    torch.testing.assert_close(again[:, 1:4], early[:, 1:4], atol=1e-6, rtol=0)  # row 0 (<bos>) means nothing
    assert not torch.allclose(after(features, prompts, changed).locations[:, 3], late[:, 3])


@torch.no_grad()
def test_prompts_are_independent_and_ragged() -> None:
    core = tiny_core().eval()
    images, sizes, prompts = random_inputs(images=3, prompts_per_image=2)
    features = core.encode_images(images, sizes)
    keep = torch.tensor([0, 3, 4, 5])  # one, one and two prompts
    some = Prompts(prompts.image_index[keep], prompts.boxes[keep], prompts.context[keep])
    torch.testing.assert_close(core.extract(features, some), core.extract(features, prompts)[keep], atol=1e-5, rtol=0)


@torch.no_grad()
def test_padding_is_never_seen() -> None:
    core = tiny_core().eval()
    images, sizes, _ = random_inputs()
    painted = images.clone()
    for image, (height, width) in enumerate(sizes.tolist()):
        painted[image, :, height:] = 255
        painted[image, :, :, width:] = 255
    torch.testing.assert_close(core.encode_images(images, sizes).fused, core.encode_images(painted, sizes).fused)


def test_frozen_means_frozen() -> None:
    core = tiny_core(tiny_t5("lora")).train()
    assert not core.sam_encoder.training
    assert not any(p.requires_grad for p in [*core.sam_encoder.parameters(), *core.prompt_encoder.parameters()])
    images, sizes, prompts = random_inputs()
    features = core.encode_images(images, sizes)
    assert not features.sam.requires_grad
    core(features, prompts, torch.randint(3, 200, (4, 5))).locations.sum().backward()
    assert all(p.grad is None for p in core.sam_encoder.parameters())
    assert any(p.grad is not None for p in core.tuned_encoder.parameters())


def counts(core: torch.nn.Module) -> dict[str, int]:
    return {name: sum(p.numel() for p in part.parameters()) for name, part in core.named_children()}


PUBLISHED = {
    "sam_encoder": 637_026_048,
    "tuned_encoder": 303_268_800,
    "prompt_feature_extractor": 44_030_720,
}


def test_release_has_the_published_numbers_of_parameters() -> None:
    release = {"extractor_depth": 6, "dense_output": True, "location_extra_channels": 2, "prompt_padding_tokens": 3}
    with torch.device("meta"):
        t5_xl = pixel_llm(sam_image_encoder("vit_h"), eva02_large(), t5("xl", lora_sites="all_attention"), **release)
        git = pixel_llm(sam_image_encoder("vit_h"), eva02_large(), GitDecoder(visual_width=1024), **release)
    matrix = t5_xl.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix.numel()
    for core in (t5_xl, git):
        assert counts(core).items() >= PUBLISHED.items()
        assert counts(core)["prompt_encoder"] + matrix == 1_792
    assert counts(t5_xl)["language_model"] == 2_868_631_552 + 2_103_296  # with the visual projection
    assert counts(t5_xl)["location_head"] == 1_582_600
    assert sum(counts(t5_xl).values()) + matrix == 3_856_644_808
    assert counts(git)["language_model"] == 91_016_250
    assert counts(git)["location_head"] == 924_680
    assert sum(counts(git).values()) + matrix == 1_076_268_290
    unread = t5_xl.prompt_feature_extractor.dense_output.weight.numel() + 1024  # published, but nothing reads it
    assert sum(p.numel() for p in t5_xl.parameters() if p.requires_grad) == 369_859_784 - unread


def test_paper_differs_from_release_where_the_paper_says_so() -> None:
    with torch.device("meta"):
        paper = pixel_llm(sam_image_encoder("vit_h"), eva02_large(), t5("xl"))
    parts = counts(paper)
    assert parts["sam_encoder"] == PUBLISHED["sam_encoder"]
    assert parts["tuned_encoder"] == PUBLISHED["tuned_encoder"]
    block = 4 * (512 * 512 + 512) + 2 * (4 * 512 * 256 + 3 * 256 + 512) + (512 * 2048 * 2 + 2560) + 4 * 2 * 512
    unread = 512 * 1024 + 1024
    assert parts["prompt_feature_extractor"] == PUBLISHED["prompt_feature_extractor"] - 4 * block - unread
    lora = 2 * 32 * 2048 * 2 * 24 * 2  # q and v, A and B, self-attention of both stacks
    assert parts["language_model"] == 2_868_631_552 - 18_874_368 + lora + 2_103_296
    assert parts["location_head"] == 1_582_600 - 4 * 512 - 4
