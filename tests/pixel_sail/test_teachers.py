"""Experts of transformers as teachers: tiny random ones, saved as their releases are, against the models themselves."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from pixel_llm.pixel_sail.teachers import Mask2FormerTeacher, Sam2Teacher

IMAGES = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
SIZES = torch.tensor([[64, 64], [40, 64]])
RELEASED = {Mask2FormerTeacher: "mask2former", Sam2Teacher: "sam2"}


@pytest.fixture(autouse=True)
def _offline(monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def pixels() -> Tensor:
    """The canvases by torchvision's rule: to [0, 1], ImageNet's statistics there, nothing in the padding."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    values = (IMAGES / 255 - mean[:, None, None]) / std[:, None, None]
    values[1, :, 40:] = 0
    return values


def tiny_mask2former():
    from transformers import Mask2FormerConfig, Mask2FormerModel, SwinConfig

    stages = ["stage1", "stage2", "stage3", "stage4"]
    swin = SwinConfig(image_size=64, embed_dim=8, depths=[1] * 4, num_heads=[1] * 4, window_size=4, out_features=stages)
    config = Mask2FormerConfig(
        backbone_config=swin, feature_size=32, mask_feature_size=16, hidden_dim=32, encoder_feedforward_dim=32,
        dim_feedforward=32, encoder_layers=1, decoder_layers=1, num_attention_heads=2, num_queries=3,
    )  # fmt: skip
    torch.manual_seed(0)
    return Mask2FormerModel(config).eval()


def tiny_sam2():
    from transformers import (
        Sam2Config,
        Sam2HieraDetConfig,
        Sam2MaskDecoderConfig,
        Sam2Model,
        Sam2PromptEncoderConfig,
        Sam2VisionConfig,
    )

    hiera = Sam2HieraDetConfig(
        hidden_size=8, blocks_per_stage=[1, 1, 2, 1], embed_dim_per_stage=[8, 16, 32, 64],
        num_attention_heads_per_stage=[1, 1, 2, 2], window_size_per_stage=[4, 2, 2, 2], global_attention_blocks=[3],
        image_size=[64, 64],
    )  # fmt: skip
    vision = Sam2VisionConfig(
        backbone_config=hiera, backbone_channel_list=[64, 32, 16, 8],
        backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]], fpn_hidden_size=16,
    )  # fmt: skip
    prompts = Sam2PromptEncoderConfig(hidden_size=16, image_size=64, patch_size=16)
    decoder = Sam2MaskDecoderConfig(hidden_size=16, mlp_dim=16, num_attention_heads=2, iou_head_hidden_dim=16)
    torch.manual_seed(0)
    config = Sam2Config(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder)
    return Sam2Model(config).eval()


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both as their releases are named: Mask2Former with a head for universal segmentation around it."""
    folder = tmp_path_factory.mktemp("experts")
    tiny_mask2former().save_pretrained(folder / "mask2former")
    file = folder / "mask2former/model.safetensors"
    tensors = {f"model.{name}": value for name, value in load_file(file).items()}
    save_file(tensors | {"class_predictor.weight": torch.zeros(3, 32)}, file, metadata={"format": "pt"})
    tiny_sam2().save_pretrained(folder / "sam2")
    return folder


@torch.no_grad()
def test_mask2former_is_the_pixel_decoders_last_state(released: Path) -> None:
    teacher = Mask2FormerTeacher(str(released / "mask2former"), image_size=64)
    assert (teacher.name, teacher.channels) == ("mask2former", 16)
    wanted = tiny_mask2former()(pixels()).pixel_decoder_last_hidden_state
    assert wanted.shape == (2, 16, 16, 16)
    torch.testing.assert_close(teacher(IMAGES, SIZES), wanted, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_sam2_is_its_image_embedding(released: Path) -> None:
    teacher = Sam2Teacher(str(released / "sam2"), image_size=64)
    assert (teacher.name, teacher.channels) == ("sam2", 16)
    model = tiny_sam2()
    model.no_memory_embedding.zero_()  # of videos
    wanted = model.get_image_embeddings(pixels())[-1]
    assert wanted.shape == (2, 16, 4, 4)
    torch.testing.assert_close(teacher(IMAGES, SIZES), wanted, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_they_read_the_canvas_at_their_own_size(released: Path) -> None:
    teacher = Mask2FormerTeacher(str(released / "mask2former"), image_size=100)  # to the next multiple of 32
    larger = F.interpolate(pixels(), (96, 96), mode="bilinear", antialias=True)
    wanted = tiny_mask2former()(larger).pixel_decoder_last_hidden_state
    torch.testing.assert_close(teacher(IMAGES, SIZES), wanted, atol=1e-4, rtol=1e-4)
    assert teacher(IMAGES[:, :, :32], SIZES).shape == (2, 16, 16, 24)


@pytest.mark.parametrize("build", list(RELEASED))
def test_teachers_do_not_train_and_give_no_gradient(released: Path, build) -> None:
    teacher = build(str(released / RELEASED[build]), image_size=64).train()
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert not any(module.training for module in teacher.encoder.modules())
    assert not teacher(IMAGES, SIZES).requires_grad


@pytest.mark.parametrize("build", list(RELEASED))
def test_weights_that_are_not_to_be_had_or_of_something_else_are_said_in_one_line(
    released: Path, tmp_path: Path, build
) -> None:
    for source in (str(tmp_path / "nothing"), "someone/something", str(tmp_path)):
        with pytest.raises(OSError, match=r"no weights of a \w+ to be had: [^\n]+$") as error:
            build(source)
        assert str(error.value).startswith(source)
    other = {"mask2former": "sam2", "sam2": "mask2former"}[RELEASED[build]]
    with pytest.raises(ValueError, match=r"not a (whole )?\w+: [^\n]+$"):
        build(str(released / other))
