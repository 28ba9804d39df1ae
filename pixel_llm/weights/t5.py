"""Pretrained T5 (Flan-T5, T5 1.1) into our language model."""

import torch
from torch import Tensor, nn

from pixel_llm.core.t5 import T5, is_lora_name
from pixel_llm.weights.tensors import load_tensors


def load_t5(language_model: T5, source: str, larger_vocabulary: bool = False) -> None:
    """Load a folder in the transformers format, or a model of the hub such as "google/flan-t5-xl".

    Adapters keep their initial values, and so do words behind the source's with `larger_vocabulary`.
    Raises ValueError for a model of another size, or one whose output layer is tied to its embedding (the first T5
    releases), and OSError where there is nothing at `source`.
    """
    from transformers import T5ForConditionalGeneration

    # from_pretrained, since a T5 made from a configuration ties its output layer whatever the configuration says
    pretrained = T5ForConditionalGeneration.from_pretrained(source)
    if pretrained.config.scale_decoder_outputs:
        raise ValueError(f"{source}: its output layer is tied to the embedding; use a T5 1.1 or Flan-T5 model")
    tensors = fit_adapters(language_model.model, pretrained.state_dict())
    if larger_vocabulary:
        tensors = grow_vocabulary(language_model.model, tensors)
    load_tensors(language_model.model, tensors, source)


def fit_adapters(model: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Name the tensors of a plain T5 as in one with adapters, and complete them by that one's own adapters."""
    own = model.state_dict()
    fitted = {}
    for name, value in tensors.items():
        inside = name.replace(".weight", ".base_layer.weight")
        fitted[inside if name not in own and inside in own else name] = value
    return fitted | {name: value for name, value in own.items() if is_lora_name(name) and name not in fitted}


_VOCABULARY_TABLES = ("shared.weight", "embed_tokens.weight", "lm_head.weight")


def grow_vocabulary(model: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Complete the tables of a smaller vocabulary by the rows that the model itself has for the words behind it."""
    own = model.state_dict()
    return {
        name: torch.cat([value, own[name][len(value) :].to(value)])
        if name.endswith(_VOCABULARY_TABLES) and name in own
        else value
        for name, value in tensors.items()
    }
