"""EVA-02, the image encoder that PixelLLM tunes (Fang et al. 2023), on timm's modules."""

from typing import cast

from torch import Tensor, nn

from pixel_llm.core.image_encoder import CLIP_MEAN, CLIP_STD, ImageEncoder


class EVA02(ImageEncoder):
    """EVA-02; float[B, 3, H, W] -> float[B, width, H // patch, W // patch].

    Pixels beyond the last whole patch are cut off at the bottom and the right. The class token takes part in the
    attention and is dropped at the end, after the final LayerNorm.

    pretrained_grid: side of the patch grid that the position table is stored for; resampled for other canvases.
    rescale_rope: stretch rotary positions to the pretrained grid, as the pretrained weights expect; False counts
        patches instead, as the published PixelLLM does.
    mlp_norm_eps: of the LayerNorm inside the feed-forwards; the published PixelLLM has 1e-5 there.
    drop_path: stochastic depth, growing linearly to this rate at the last block.
    """

    def __init__(
        self,
        *,
        width: int,
        depth: int,
        heads: int,
        patch: int = 14,
        mlp_ratio: float = 8 / 3,
        pretrained_grid: int = 16,
        rescale_rope: bool = True,
        mlp_norm_eps: float = 1e-6,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__(channels=width, mean=CLIP_MEAN, std=CLIP_STD)
        from timm.models.eva import Eva

        self.patch = patch
        self.model = Eva(
            img_size=pretrained_grid * patch,
            patch_size=patch,
            embed_dim=width,
            depth=depth,
            num_heads=heads,
            mlp_ratio=mlp_ratio,
            qkv_fused=False,
            swiglu_mlp=True,
            scale_mlp=True,
            use_rot_pos_emb=True,
            ref_feat_shape=pretrained_grid if rescale_rope else None,
            dynamic_img_size=True,
            drop_path_rate=drop_path,
            global_pool="",
            num_classes=0,
        )
        for name, module in self.model.named_modules():
            if name.endswith("mlp.norm"):
                cast(nn.LayerNorm, module).eps = mlp_norm_eps

    def encode(self, pixels: Tensor) -> Tensor:
        rows, columns = pixels.shape[-2] // self.patch, pixels.shape[-1] // self.patch
        pixels = pixels[..., : rows * self.patch, : columns * self.patch]
        tokens = self.model.forward_features(pixels)[:, self.model.num_prefix_tokens :]
        return tokens.transpose(1, 2).unflatten(2, (rows, columns))
