"""Official SAM checkpoints (`sam_vit_b_01ec64.pth` and its larger sisters) into our modules."""

from pathlib import Path

from torch import nn

from pixel_llm.weights.tensors import load_tensors, read_tensors

_MASK_PROMPTS = "mask_downscaling."  # embeds mask prompts, which PixelLLM does not use


def load_sam(
    path: Path | str,
    *,
    image_encoder: nn.Module | None = None,
    prompt_encoder: nn.Module | None = None,
    mask_decoder: nn.Module | None = None,
) -> None:
    """Load those parts of SAM that are given.

    Raises FileNotFoundError, and ValueError for a file that is not SAM's or that belongs to another size of it.
    """
    parts = {
        "image_encoder": image_encoder,
        "prompt_encoder": prompt_encoder,
        "mask_decoder": mask_decoder,
    }
    tensors = read_tensors(path)
    for part, module in parts.items():
        prefix = f"{part}."
        own = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        if not own:
            raise ValueError(f"{path}: not a SAM checkpoint: no tensor named {prefix}*")
        if module is not None:
            load_tensors(module, own, f"{path}: {part}", optional=[_MASK_PROMPTS])
