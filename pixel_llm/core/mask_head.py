"""From a box to the mask of what is meant: SAM's mask decoder, asked by the box and by the language."""

from torch import Tensor, nn

from pixel_llm.core.mask_adapter import CORNERS, MaskAdapter
from pixel_llm.core.mask_decoder import MaskDecoder
from pixel_llm.core.prompt_encoder import PromptEncoder


class MaskHead(nn.Module):
    """decoder: SAM's mask decoder.  adapter: what the language adds to the corners of the box."""

    def __init__(self, decoder: MaskDecoder, adapter: MaskAdapter) -> None:
        super().__init__()
        self.decoder = decoder
        self.adapter = adapter

    def forward(
        self,
        sam_features: Tensor,
        prompt_encoder: PromptEncoder,
        boxes_px: Tensor,
        canvas: tuple[int, int],
        image_index: Tensor,
        visual: Tensor,
        hidden: Tensor,
        valid: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Masks of P prompts on B images; no gradient goes back through the boxes.

        sam_features: float[B, D, h, w], SAM's own feature map.  prompt_encoder: SAM's.
        boxes_px: float[P, 4], x0 y0 x1 y1 in pixels of the canvas of (height, width).
        image_index: int[P], the image of each prompt.
        visual, hidden, valid: what the adapter reads.
        Returns mask logits on the canvas, float[P, 1, 4h, 4w], and expected IoU, float[P, 1].
        """
        corners = prompt_encoder.embed_boxes(boxes_px.detach(), canvas)[:, :CORNERS]
        sparse = corners + self.adapter(visual, hidden, valid)
        image_pe = prompt_encoder.dense_pe((sam_features.shape[-2], sam_features.shape[-1]))
        return self.decoder(sam_features, image_pe, sparse, prompt_encoder.no_mask, image_index)
