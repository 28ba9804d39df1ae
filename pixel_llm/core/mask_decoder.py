"""SAM's mask decoder, for the prompts of several images at once (Kirillov et al. 2023).

Parameters are named as in segment-anything, so official files load by name.
"""

import torch
from torch import Tensor, nn

from pixel_llm.core.layers import MLP, LayerNorm2d
from pixel_llm.core.two_way_transformer import TwoWayTransformer

# image cells of all prompts that are worked on at once: so few that they stay in a processor's cache, so many that a
# GPU is busy and its memory is not full
_CPU_CELLS, _GPU_CELLS = 1 << 13, 1 << 18


class MaskDecoder(nn.Module):
    """(image features, prompt tokens) -> masks and their expected IoU; the defaults are SAM's.

    width: channels of the image features and of the prompt tokens.
    multimask_outputs: masks of an ambiguous prompt, beside the one for an unambiguous one.
    """

    def __init__(
        self,
        *,
        width: int = 256,
        depth: int = 2,
        heads: int = 8,
        mlp: int = 2048,
        multimask_outputs: int = 3,
        iou_depth: int = 3,
        iou_hidden: int = 256,
    ) -> None:
        super().__init__()
        masks = multimask_outputs + 1
        self.transformer = TwoWayTransformer(width=width, depth=depth, heads=heads, mlp=mlp)
        self.iou_token = nn.Embedding(1, width)
        self.mask_tokens = nn.Embedding(masks, width)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(width, width // 4, 2, stride=2),
            LayerNorm2d(width // 4),
            nn.GELU(),
            nn.ConvTranspose2d(width // 4, width // 8, 2, stride=2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(MLP(width, width, width // 8, 3) for _ in range(masks))
        self.iou_prediction_head = MLP(width, iou_hidden, masks, iou_depth)

    def forward(
        self,
        image: Tensor,
        image_pe: Tensor,
        sparse: Tensor,
        dense: Tensor,
        image_index: Tensor,
        multimask: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Predict the masks of P prompts on B images.

        image: float[B, D, h, w], SAM's own feature map.
        image_pe: float[D, h, w], the prompt encoder's position codes of its grid.
        sparse: float[P, K, D], prompt tokens.  dense: float[1, D], the "no mask" embedding.
        image_index: int[P], the image of each prompt.
        multimask: the masks of an ambiguous prompt (M = multimask_outputs) instead of the single one (M = 1).
        Returns mask logits float[P, M, 4h, 4w] and expected IoU float[P, M].
        """
        parts = []
        for first in range(0, max(len(sparse), 1), step := self._prompts_at_once(image)):
            some = slice(first, first + step)
            parts.append(self._decode(image, image_pe, sparse[some], dense, image_index[some], multimask))
        masks, iou = zip(*parts, strict=True)
        return torch.cat(masks), torch.cat(iou)

    def _prompts_at_once(self, image: Tensor) -> int:
        cells = image[0, 0].numel()
        return max(1, (_CPU_CELLS if image.device.type == "cpu" else _GPU_CELLS) // cells)

    def _decode(
        self, image: Tensor, image_pe: Tensor, sparse: Tensor, dense: Tensor, image_index: Tensor, multimask: bool
    ) -> tuple[Tensor, Tensor]:
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight]).expand(len(sparse), -1, -1)
        seen, image_index = image_index.unique(return_inverse=True)
        cells = image[seen].flatten(2).transpose(1, 2).contiguous() + dense
        tokens = torch.cat([own, sparse], dim=1)
        tokens, cells = self.transformer(cells, image_pe.flatten(1).T, tokens, image_index)
        upscaled = self.output_upscaling(cells.transpose(1, 2).unflatten(2, image.shape[-2:]))

        wanted = range(1, self.mask_tokens.num_embeddings) if multimask else range(1)
        kernels = [self.output_hypernetworks_mlps[mask](tokens[:, 1 + mask]) for mask in wanted]
        masks = torch.einsum("pmd,pdhw->pmhw", torch.stack(kernels, dim=1), upscaled)
        return masks, self.iou_prediction_head(tokens[:, 0])[:, wanted.start : wanted.stop]
