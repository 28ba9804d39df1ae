"""LoRA adapters added to the weights that they adapt (Hu et al. 2021, W + alpha / rank * B A)."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def merge_adapters(state: Mapping[str, Tensor], model: dict[str, Any]) -> dict[str, Tensor]:
    """Weights without adapters, which the model's configuration is changed to expect, in place.

    Raises ValueError where there is no language model with adapters.
    """
    sections = [section for section in _sections(model) if section.get("trainable") == "lora"]
    if not sections:
        raise ValueError("this model has no LoRA adapters to merge")
    (section,) = sections
    scale = section["lora_alpha"] / section["lora_rank"]
    section["trainable"] = "nothing"
    merged = {}
    for name, value in state.items():
        if ".lora_" in name:
            continue
        outside, inside, rest = name.partition(".base_layer.")
        if inside and rest == "weight":
            down, up = (state[f"{outside}.lora_{part}.default.weight"].float() for part in "AB")
            value = (value.float() + scale * up @ down).to(value.dtype)
        merged[f"{outside}.{rest}" if inside else name] = value
    return merged


def _sections(config: Any) -> list[dict[str, Any]]:
    """All mappings inside a configuration."""
    if isinstance(config, list):
        return [section for part in config for section in _sections(part)]
    if not isinstance(config, dict):
        return []
    return [config, *(section for part in config.values() for section in _sections(part))]
