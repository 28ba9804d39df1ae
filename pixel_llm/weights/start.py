"""Where each part of a model starts from: released weights, or the checkpoint of an earlier stage."""

from pathlib import Path
from typing import cast

from torch import nn

from pixel_llm.core.eva02 import EVA02
from pixel_llm.core.pixel_llm import PixelLLM
from pixel_llm.core.t5 import T5
from pixel_llm.pixel_sail.pixel_sail import PixelSail
from pixel_llm.weights.eva02 import load_eva02
from pixel_llm.weights.sam import load_sam
from pixel_llm.weights.t5 import fit_adapters, grow_vocabulary, load_t5
from pixel_llm.weights.tensors import load_parts, load_tensors, read_tensors

_VISUAL = ("sam_encoder", "tuned_encoder", "prompt_encoder", "prompt_feature_extractor")


class StartingWeights:
    """Pretrained parts; None leaves a part at random. A path that ends in .ckpt is a checkpoint of ours.

    sam: image encoder, prompt encoder and, in a model with masks, mask decoder; from an official SAM file or from
        promptable segmentation.
    tuned_encoder: a file or hub name of timm's EVA-02, or a checkpoint of attribute pretraining.
    language_model: a folder or hub name of a T5 in the transformers format, or a checkpoint of text pretraining; of a
        Pixel-SAIL a decoder-only text model such as Qwen2.5, into its backbone (`pixel_llm/weights/text_base.py`).
    visual: both encoders, prompt encoder and extractor, so all before the language model, from a checkpoint of an
        earlier stage, whose language model may be another one.
    core: the whole model from a checkpoint of an earlier stage, which may have lacked mask or proposal head; the parts
        above are then loaded over it.
    larger_vocabulary: a T5 may have a larger vocabulary than its `language_model` starts from; the words behind
        the known ones stay at random.
    """

    def __init__(
        self,
        sam: str | None = None,
        tuned_encoder: str | None = None,
        language_model: str | None = None,
        visual: str | None = None,
        core: str | None = None,
        larger_vocabulary: bool = False,
    ) -> None:
        self.sam, self.tuned_encoder, self.language_model = sam, tuned_encoder, language_model
        self.visual, self.core, self.larger_vocabulary = visual, core, larger_vocabulary

    def load(self, core: nn.Module) -> None:
        """Load into a PixelLLM or a PixelSail.

        Raises FileNotFoundError, and ValueError with one line for what does not fit.
        """
        model = cast(PixelLLM, core)
        for name in ("core", "visual", "sam"):
            path = getattr(self, name)
            if path and not Path(path).exists():
                raise FileNotFoundError(f"{path}: no such file; it is the starting weights' {name!r}")
        if self.core:
            load_parts(self.core, {"core.": model}, absent=["mask_head.", "proposal_head."])
        if isinstance(core, PixelSail):
            return self._load_single_transformer(core)
        if self.visual:
            load_parts(self.visual, {f"core.{part}.": model.get_submodule(part) for part in _VISUAL})
        if self.sam:
            self._load_sam(model, self.sam)
        if self.tuned_encoder:
            self._load_tuned_encoder(model, self.tuned_encoder)
        if self.language_model:
            self._load_language_model(model, self.language_model)

    def _load_single_transformer(self, model: PixelSail) -> None:
        if part := next((part for part in ("visual", "sam", "tuned_encoder") if getattr(self, part)), None):
            raise ValueError(f"starting weights: a PixelSail has no {part!r}")
        if self.language_model:
            from pixel_llm.weights.text_base import load_text_base  # it takes a second, which no other model needs

            load_text_base(model.backbone, self.language_model, model.special)

    def _load_sam(self, model: PixelLLM, path: str) -> None:
        parts: dict[str, nn.Module] = {"image_encoder": model.sam_encoder, "prompt_encoder": model.prompt_encoder}
        if model.mask_head is not None:
            parts["mask_decoder"] = model.mask_head.decoder
        if path.endswith(".ckpt"):
            load_parts(path, {f"core.{name}.": module for name, module in parts.items()})
        else:
            load_sam(path, **parts)
        trained = self.core or self.visual
        if model.query_tokens_placed and not trained:  # by the position code that has just been replaced
            model.place_query_tokens()

    def _load_tuned_encoder(self, model: PixelLLM, path: str) -> None:
        if path.endswith(".ckpt"):
            load_parts(path, {"core.tuned_encoder.": model.tuned_encoder})
        elif isinstance(model.tuned_encoder, EVA02):
            load_eva02(model.tuned_encoder, path)
        else:
            raise ValueError(
                f"{path}: released weights exist for EVA-02 only, not {type(model.tuned_encoder).__name__}"
            )

    def _load_language_model(self, model: PixelLLM, path: str) -> None:
        language_model = model.language_model
        if path.endswith(".ckpt"):
            tensors = {n.removeprefix("core."): v for n, v in read_tensors(path).items() if n.startswith("core.")}
            tensors = fit_adapters(language_model, tensors)
            if self.larger_vocabulary:
                tensors = grow_vocabulary(language_model, tensors)
            load_tensors(language_model, tensors, path)
        elif isinstance(language_model, T5):
            load_t5(language_model, path, self.larger_vocabulary)
        else:
            raise ValueError(f"{path}: released weights exist for T5, not {type(language_model).__name__}")
