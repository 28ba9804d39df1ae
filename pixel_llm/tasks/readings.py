"""How often an image is read: once for all the questions that follow each other and name the same of its regions."""

from dataclasses import replace

import torch
from torch import Tensor

from pixel_llm.pixel_sail.visual_prompts import check_symbols
from pixel_llm.special_tokens import SpecialTokens
from pixel_llm.structures import Batch, Prompts, VisualPrompts


def apart(batch: Batch, special: SpecialTokens) -> Batch:
    """The same questions on copies of their images, each with only the marks of the regions that are asked about.

    So an answer does not depend on what else is asked, and no region loses its patches to one that another question
    names. A batch without regions is returned as it is.
    Raises ValueError with one line for a region that the model has no name for.
    """
    if batch.visual_prompts is None:
        return batch
    check_symbols(batch.visual_prompts, special.visual_prompts)
    prompts = batch.prompts
    wanted = torch.cat([prompts.image_index[:, None], _named(prompts, special).long()], dim=1)
    rows, row_of = torch.unique_consecutive(wanted, dim=0, return_inverse=True)
    images = rows[:, 0]
    places = images.tolist()
    return replace(
        batch,
        keys=[batch.keys[i] for i in places],
        positions=[batch.positions[i] for i in places],
        images=batch.images[images],
        sizes=batch.sizes[images],
        original_sizes=batch.original_sizes[images],
        sources=[batch.sources[i] for i in places],
        prompts=replace(prompts, image_index=row_of),
        visual_prompts=_marked(batch.visual_prompts, rows),
        features={name: made[images] for name, made in batch.features.items()},
    )


def _named(prompts: Prompts, special: SpecialTokens) -> Tensor:
    """bool[P, K], the regions that each question names."""
    assert prompts.context is not None, "regions are named in questions"
    numbers = torch.arange(special.visual_prompts, device=prompts.context.device) + special.prompt(0)
    return (prompts.context[..., None] == numbers).any(1)


def _marked(regions: VisualPrompts, rows: Tensor) -> VisualPrompts | None:
    """The regions of some readings.  rows: int[r, 1 + K], the image of each and whether it has the region K."""
    here = (rows[:, :1] == regions.image_index) & (rows[:, 1:][:, regions.symbols] > 0)
    reading, region = here.nonzero(as_tuple=True)
    return VisualPrompts(reading, regions.symbols[region], regions.masks[region]) if len(region) else None
