"""A pretrained text model into the backbone of a single transformer."""

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from pixel_llm.pixel_sail.backbone import EncoderFreeBackbone
from pixel_llm.pixel_sail.hugging_face import HuggingFaceBackbone, from_source
from pixel_llm.pixel_sail.transformer import Transformer
from pixel_llm.special_tokens import SpecialTokens
from pixel_llm.weights.tensors import load_tensors


def load_text_base(backbone: EncoderFreeBackbone, source: str, special: SpecialTokens) -> None:
    """Load a folder in the transformers format, or a model of the hub such as "Qwen/Qwen2.5-0.5B".

    The native transformer takes Qwen2 models. Rows of the symbols begin as `HuggingFaceBackbone` says.
    Raises ValueError for a model of another kind or size, and FileNotFoundError where there is nothing at `source`.
    """
    base = HuggingFaceBackbone(from_source(AutoModelForCausalLM, source, dtype=torch.float32), special)
    tensors = base.model.state_dict()
    if isinstance(backbone, HuggingFaceBackbone):
        load_tensors(backbone.model, tensors, source)
    elif isinstance(backbone, Transformer):
        tensors = {name.removeprefix("model."): value for name, value in tensors.items()}
        if backbone.lm_head is None:
            del tensors["lm_head.weight"]
        load_tensors(backbone, tensors, source)
    else:
        raise ValueError(f"{source}: text models are loaded into a Transformer or a HuggingFaceBackbone")
    # the number of heads and the base of rotary positions do not show in the shapes of weights
    expected, found = _say_something(base), _say_something(backbone)
    if not torch.allclose(found, expected, rtol=1e-3, atol=1e-3 * float(expected.std())):
        raise ValueError(f"{source}: it has other heads, positions, norms or another output layer than the model")


@torch.no_grad()
def _say_something(backbone: EncoderFreeBackbone) -> Tensor:
    """Logits of a plain text."""
    places = torch.arange(8)
    attend = (places <= places[:, None])[None]
    embeddings = backbone.embed(places % backbone.vocabulary_size)[None]
    return backbone.logits(backbone(embeddings, places[None, :, None].expand(1, -1, 3), attend, None)[0])
