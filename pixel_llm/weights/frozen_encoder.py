"""Whether what an encoder makes of an image is always the same, and which encoder made it."""

import torch
from torch import Tensor, nn

from pixel_llm.core.image_encoder import ImageEncoder
from pixel_llm.core.layers import StochasticDepth
from pixel_llm.weights.frozen import fingerprint

ENCODER = "sam_encoder"  # the one whose features are computed beforehand


def frozen_encoder(core: nn.Module, name: str) -> ImageEncoder:
    """The encoder of this name in a model; ValueError with one line where there is none, and as `check_frozen` says."""
    encoder = getattr(core, name, None)
    if not isinstance(encoder, ImageEncoder):
        raise ValueError(f"{type(core).__name__} has no {name} whose features could be computed beforehand")
    check_frozen(encoder, name)
    return encoder


def check_frozen(encoder: ImageEncoder, name: str) -> None:
    """ValueError with one line where more than the image decides on an encoder's output."""
    if not encoder.frozen or any(parameter.requires_grad for parameter in encoder.parameters()):
        raise ValueError(f"{name} trains in this configuration: its features cannot be computed beforehand")
    rates = [module.rate for module in encoder.modules() if isinstance(module, StochasticDepth)]
    if max(rates, default=0.0) > 0:
        raise ValueError(
            f"{name} drops paths at random in training (drop_path {max(rates):g}), though it is frozen: its features "
            "cannot be computed beforehand; with drop_path 0 they can"
        )


def encoder_fingerprint(encoder: ImageEncoder) -> str:
    """16 hex digits that stand for an encoder's weights, its pixel statistics and the size that it reads.

    Numbers are rounded to bfloat16 first, so that an encoder is known in whatever precision it runs.
    """
    tensors = [_whole(tensor).to("cpu", torch.bfloat16) for tensor in (*encoder.parameters(), *encoder.buffers())]
    named = {f"{number:05d}": tensor for number, tensor in enumerate(tensors)}
    if encoder.resized_to is not None:
        named["resized_to"] = torch.tensor(encoder.resized_to)
    return fingerprint(named)[:16]


def _whole(tensor: Tensor) -> Tensor:
    """All of a tensor that may be spread over processes."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
