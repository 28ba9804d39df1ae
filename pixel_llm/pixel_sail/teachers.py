"""Vision experts, to be frozen and learned from: of transformers, or trained here.

Those of transformers read the canvas resized to the size that they were trained for, with ImageNet's statistics and
zeros in the padding. On the device "meta", where nothing has content, they are made without weights: for planning.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pixel_llm.core.image_encoder import IMAGENET_MEAN, IMAGENET_STD, ImageEncoder
from pixel_llm.messages import one_line
from pixel_llm.pixel_sail.distillation import FrozenEncoder
from pixel_llm.weights.tensors import load_parts

_MULTIPLE = 32  # the coarsest stride of both
_PUBLISHED: dict[str, dict[str, Any]] = {  # sizes, where they are not those that transformers takes by itself
    "facebook/mask2former-swin-large-coco-panoptic": {
        "backbone_config": {
            "model_type": "swin", "image_size": 384, "embed_dim": 192, "depths": [2, 2, 18, 2],
            "num_heads": [6, 12, 24, 48], "window_size": 12, "out_features": ["stage1", "stage2", "stage3", "stage4"],
        },
        "num_queries": 200,
    },
    "facebook/sam2.1-hiera-large": {
        "vision_config": {
            "backbone_config": {
                "model_type": "sam2_hiera_det_model", "hidden_size": 144, "num_attention_heads": 2,
                "blocks_per_stage": [2, 6, 36, 4], "embed_dim_per_stage": [144, 288, 576, 1152],
                "num_attention_heads_per_stage": [2, 4, 8, 16], "window_size_per_stage": [8, 4, 16, 8],
                "global_attention_blocks": [23, 33, 43],
            },
            "backbone_channel_list": [1152, 576, 288, 144],
        },
    },
}  # fmt: skip


class Mask2FormerEncoder(ImageEncoder):
    """The last hidden state of Mask2Former's pixel decoder: float[B, C, h, w] at a quarter of the sides that it reads.

    pixel_level_module: backbone and pixel decoder of a Mask2Former.
    image_size: the longer side of what it reads (the paper's teacher: 800).
    """

    resized_to: int

    def __init__(self, pixel_level_module: Any, image_size: int = 800) -> None:
        channels = pixel_level_module.decoder.mask_projection.out_channels
        super().__init__(channels=channels, mean=IMAGENET_MEAN, std=IMAGENET_STD)
        self.pixel_level_module = pixel_level_module
        self.resized_to = image_size

    def encode(self, pixels: Tensor) -> Tensor:
        return self.pixel_level_module(resized(pixels, self.resized_to)).decoder_last_hidden_state


class Sam2Encoder(ImageEncoder):
    """SAM 2's image embedding, the coarsest map of its neck: float[B, C, h, w] at a 16th of the sides that it reads.

    vision_encoder: of transformers' SAM 2.  image_size: the longer side of what it reads.
    """

    resized_to: int

    def __init__(self, vision_encoder: Any, image_size: int = 1024) -> None:
        channels = vision_encoder.config.fpn_hidden_size
        super().__init__(channels=channels, mean=IMAGENET_MEAN, std=IMAGENET_STD)
        self.vision_encoder = vision_encoder
        self.resized_to = image_size

    def encode(self, pixels: Tensor) -> Tensor:
        return self.vision_encoder(resized(pixels, self.resized_to)).fpn_hidden_states[-1]


class Mask2FormerTeacher(FrozenEncoder):
    """The paper's segmentation expert, under the name "mask2former".

    source: a folder in the transformers format, or a model of the hub.
    Raises OSError with one line where there is nothing at `source`, ValueError where it is no whole Mask2Former.
    """

    def __init__(self, source: str = "facebook/mask2former-swin-large-coco-panoptic", image_size: int = 800) -> None:
        from transformers import Mask2FormerModel  # the class with its losses needs scipy

        model = _pretrained(Mask2FormerModel, source, "pixel_level_module.")
        super().__init__(Mask2FormerEncoder(model.pixel_level_module, image_size), "mask2former")


class Sam2Teacher(FrozenEncoder):
    """The paper's teacher of the states, under the name "sam2"; arguments and errors as in `Mask2FormerTeacher`."""

    def __init__(self, source: str = "facebook/sam2.1-hiera-large", image_size: int = 1024) -> None:
        from transformers import Sam2Model

        model = _pretrained(Sam2Model, source, "vision_encoder.")
        super().__init__(Sam2Encoder(model.vision_encoder, image_size), "sam2")


class TrainedEncoder(FrozenEncoder):
    """An image encoder from a checkpoint of ours, under the name of its part.

    encoder: of the sizes in the checkpoint.  part: "sam_encoder" or "tuned_encoder".
    Raises FileNotFoundError, and ValueError with one line where the checkpoint has no such encoder.
    """

    def __init__(self, encoder: ImageEncoder, checkpoint: str, part: str = "sam_encoder") -> None:
        if not _without_memory():
            load_parts(checkpoint, {f"core.{part}.": encoder})
        super().__init__(encoder, part)


def _pretrained(kind: Any, source: str, part: str) -> Any:
    """A model of transformers whose tensors named `part`* all come from its weights."""
    if _without_memory():
        config = kind.config_class
        return kind(config(**_PUBLISHED[source]) if source in _PUBLISHED else config.from_pretrained(source))
    load: Callable[..., Any] = kind.from_pretrained
    try:
        model, report = load(source, output_loading_info=True)
    except OSError as error:
        raise OSError(f"{source}: no weights of a {kind.__name__} to be had: {one_line(error)}") from error
    except RuntimeError as error:  # tensors of other shapes
        raise ValueError(f"{source}: not a {kind.__name__}: {one_line(error)}") from error
    missing = sorted(name for name in report["missing_keys"] if name.startswith(part))
    if missing:
        raise ValueError(f"{source}: not a whole {kind.__name__}: it lacks {missing[0]} and {len(missing) - 1} more")
    return model


def _without_memory() -> bool:
    return torch.get_default_device().type == "meta"


def resized(pixels: Tensor, side: int) -> Tensor:
    """float[B, 3, H, W] with the longer side `side`, bilinear; both sides rounded to what strides of 32 divide."""
    longer = max(pixels.shape[-2:])
    size = [max(1, round(length * side / longer / _MULTIPLE)) * _MULTIPLE for length in pixels.shape[-2:]]
    if list(pixels.shape[-2:]) == size:
        return pixels
    return F.interpolate(pixels.float(), size, mode="bilinear", antialias=True).to(pixels.dtype)
