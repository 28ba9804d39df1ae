"""SAM as a whole: image encoder, prompt encoder and mask decoder, for promptable segmentation."""

from torch import Tensor, nn

from pixel_llm.core.mask_decoder import MaskDecoder
from pixel_llm.core.prompt_encoder import PromptEncoder
from pixel_llm.core.sam_image_encoder import SamImageEncoder


class Sam(nn.Module):
    """(image, box or point prompts) -> masks. Its parts are named as in official checkpoints."""

    def __init__(self, image_encoder: SamImageEncoder, decoder_depth: int = 2, decoder_heads: int = 8) -> None:
        super().__init__()
        width = image_encoder.channels
        self.image_encoder = image_encoder
        self.prompt_encoder = PromptEncoder(width=width)
        self.mask_decoder = sam_mask_decoder(width, decoder_depth, decoder_heads)

    def box_tokens(self, boxes: Tensor, canvas: tuple[int, int]) -> Tensor:
        """As `PromptEncoder.embed_boxes`."""
        return self.prompt_encoder.embed_boxes(boxes, canvas)

    def point_tokens(self, points: Tensor, labels: Tensor, canvas: tuple[int, int]) -> Tensor:
        """As `PromptEncoder.embed_points`."""
        return self.prompt_encoder.embed_points(points, labels, canvas)

    def forward(
        self, images: Tensor, sizes: Tensor, sparse: Tensor, image_index: Tensor, multimask: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Mask logits float[P, M, 4h, 4w] on the canvas and expected IoU float[P, M].

        images, sizes: as in `ImageEncoder`.  sparse: float[P, K, D], of `box_tokens` or `point_tokens`.
        image_index: int[P], the image of each prompt.
        """
        features = self.image_encoder(images, sizes)
        image_pe = self.prompt_encoder.dense_pe((features.shape[-2], features.shape[-1]))
        dense = self.prompt_encoder.no_mask
        return self.mask_decoder(features, image_pe, sparse, dense, image_index, multimask)


def sam_mask_decoder(width: int = 256, depth: int = 2, heads: int = 8) -> MaskDecoder:
    """SAM's mask decoder for image features of `width` channels; the defaults are the released size."""
    return MaskDecoder(width=width, depth=depth, heads=heads, mlp=8 * width, iou_hidden=width)
