"""EVA-02 weights as timm names them, from a file or from the hub, into our encoder."""

import re
from pathlib import Path

from torch import Tensor

from pixel_llm.core.eva02 import EVA02
from pixel_llm.weights.tensors import load_tensors, read_tensors

_FILE_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
_NOT_THE_ENCODER = re.compile(r"head\.|lm_head\.|mask_token$|rope\.")


def load_eva02(encoder: EVA02, source: Path | str) -> None:
    """Load a file, or a model of timm's hub such as "eva02_large_patch14_224.mim_m38m" (downloaded once).

    Nothing is resized: `pretrained_grid` of the encoder must be the file's; it may still run on other canvases.
    Raises FileNotFoundError, and ValueError for a file of another kind or size.
    """
    tensors = read_tensors(source) if _is_file(source) else _from_hub(str(source))
    load_tensors(encoder.model, encoder_tensors(tensors), str(source))


def encoder_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Drop heads and what only pretraining needs; timm calls the final norm `fc_norm` where it pools after it."""
    kept = {name: value for name, value in tensors.items() if not _NOT_THE_ENCODER.match(name)}
    return {re.sub(r"^fc_norm\.", "norm.", name): value for name, value in kept.items()}


def _is_file(source: Path | str) -> bool:
    return isinstance(source, Path) or source.endswith(_FILE_SUFFIXES) or Path(source).is_file()


def _from_hub(name: str) -> dict[str, Tensor]:
    import timm

    return timm.create_model(name, pretrained=True).state_dict()
