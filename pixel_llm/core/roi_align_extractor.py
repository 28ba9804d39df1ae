"""RoIAlign in the place of the prompt feature extractor: the comparison that the paper argues from (Section 3.1).

The fused map is pooled inside the prompt's box alone (He et al. 2017); every cell of the pooled grid is one token of
the language model's prefix. What lies outside the box is not seen, and where the box lies is not said.
"""

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from pixel_llm.coordinates import boxes_01_to_canvas_px
from pixel_llm.core.layers import start_lecun_normal
from pixel_llm.core.prompt_encoder import PromptEncoder
from pixel_llm.core.prompt_feature_extractor import Extractor
from pixel_llm.structures import ImageFeatures, Prompts


class RoIAlignExtractor(Extractor):
    """(image, box) -> float[P, cells * cells, output_width].

    image_channels: channels of the fused feature map.  width: of the hidden layer that every cell passes through.
    cells: side of the pooled grid.  Prompts by clicks have no box: ValueError.
    """

    def __init__(self, *, image_channels: int, width: int, output_width: int, cells: int = 6) -> None:
        super().__init__()
        self.cells = cells
        self.layers = nn.Sequential(nn.Linear(image_channels, width), nn.ReLU(), nn.Linear(width, output_width))
        self.cell_tokens = nn.Parameter(0.02 * torch.randn(cells * cells, output_width))
        self.apply(start_lecun_normal)

    def extract(self, features: ImageFeatures, prompts: Prompts, prompt_encoder: PromptEncoder) -> Tensor:
        if prompts.points is not None:
            raise ValueError("RoIAlign needs boxes, and these prompts are clicks")
        boxes = boxes_01_to_canvas_px(prompts.boxes, features.sizes[prompts.image_index])
        height, width = features.fused.shape[-2:]
        boxes = boxes * boxes.new_tensor([width / features.canvas[1], height / features.canvas[0]]).repeat(2)
        rois = torch.cat([prompts.image_index[:, None].to(boxes), boxes], dim=1).to(features.fused.dtype)
        pooled = roi_align(features.fused, rois, self.cells, sampling_ratio=2, aligned=True)
        return self.layers(pooled.flatten(2).transpose(1, 2)) + self.cell_tokens
