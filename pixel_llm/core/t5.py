"""T5 as the language model: transformers' modules, LoRA through PEFT.

The encoder reads [projected query tokens ; prompt text], the decoder writes the caption. Dropout follows the
published placement: on text embeddings, inside the blocks, on the encoder's output and before the vocabulary
projection, but on neither the visual tokens nor the features that the location head reads.
"""

import re
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from pixel_llm.core.language_model import LanguageModel, Prefix
from pixel_llm.core.t5_decoder import DecoderState

LoraSites = Literal["self_attention", "all_attention"]
_LORA_TARGETS = {
    "self_attention": r".*\.SelfAttention\.(q|v)",
    "all_attention": r".*\.(SelfAttention|EncDecAttention)\.(q|v)",
}


@dataclass
class T5Prefix(Prefix):
    """memory: float[P, S, D], the encoder's output.  mask: int[P, S], 1 where it is no padding."""

    memory: Tensor
    mask: Tensor

    def select(self, index: Tensor) -> "T5Prefix":
        return T5Prefix(self.visual[index], self.memory[index], self.mask[index])


class T5(LanguageModel):
    """An encoder-decoder with gated GELU feed-forwards and an untied output layer (T5 1.1, Flan-T5).

    width, layers (of encoder and decoder each), heads, head_width, feed_forward, vocabulary_size: the sizes.
    visual_width: width of the prompt features; they pass through Linear and LayerNorm (eps 1e-5).
    trainable: "all", "lora" (the paper) or "nothing" (the paper's frozen ablation) of the T5 itself; the
        visual projection always trains.
    lora_rank, lora_alpha: W + lora_alpha / lora_rank * A B on query and value projections, only with "lora".
    lora_sites: "self_attention" as the paper says; "all_attention", cross-attention too, as published.
    """

    def __init__(
        self,
        *,
        width: int,
        layers: int,
        heads: int,
        head_width: int,
        feed_forward: int,
        vocabulary_size: int,
        visual_width: int,
        dropout: float = 0.1,
        trainable: Literal["all", "lora", "nothing"] = "lora",
        lora_rank: int = 32,
        lora_alpha: float = 64.0,
        lora_sites: LoraSites = "self_attention",
    ) -> None:
        super().__init__()
        from transformers import T5Config, T5ForConditionalGeneration

        config = T5Config(
            vocab_size=vocabulary_size,
            d_model=width,
            d_kv=head_width,
            d_ff=feed_forward,
            num_layers=layers,
            num_heads=heads,
            feed_forward_proj="gated-gelu",
            dropout_rate=dropout,
            tie_word_embeddings=False,  # type: ignore[call-arg]
        )
        config.dense_act_fn = "gelu_pytorch_tanh"  # the same function as one operation
        self.width = self.adapter_width = width
        self.visual_width, self.vocabulary_size = visual_width, vocabulary_size
        self.bos_id = self.pad_id = 0
        self.eos_id = 1
        self.model = T5ForConditionalGeneration(config)
        # transformers ties the output layer to the embedding whatever the configuration says
        self.model.lm_head.weight = nn.Parameter(torch.empty_like(self.model.shared.weight))
        nn.init.normal_(self.model.lm_head.weight, std=width**-0.5)
        for stack in (self.model.encoder, self.model.decoder):
            stack.dropout = nn.Identity()  # type: ignore[assignment]  # applied below, where the published code does
        self.dropout = nn.Dropout(dropout)
        projection = nn.Linear(visual_width, width)
        nn.init.normal_(projection.weight, std=0.02)
        self.visual_projection = nn.Sequential(projection, nn.LayerNorm(width, eps=1e-5))
        self.model.requires_grad_(trainable == "all")
        if trainable == "lora":
            self._inject_lora(lora_rank, lora_alpha, lora_sites)

    def _inject_lora(self, rank: int, alpha: float, sites: LoraSites) -> None:
        from peft import LoraConfig, inject_adapter_in_model

        targets = _LORA_TARGETS[sites]
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets)  # type: ignore[arg-type]  # floats work
        inject_adapter_in_model(config, self.model)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_("lora_" in name)
            if "lora_" in name:  # a bfloat16 base would otherwise get bfloat16 adapters
                parameter.data = parameter.data.float()

    def encode_prefix(self, visual: Tensor, context: Tensor | None) -> T5Prefix:
        embedded = projected = self.visual_projection(visual)
        mask = torch.ones(embedded.shape[:2], dtype=torch.long, device=visual.device)
        if context is not None:
            embedded = torch.cat([embedded, self.dropout(self.model.shared(context))], dim=1)
            mask = torch.cat([mask, (context != self.pad_id).long()], dim=1)
        memory = self.model.encoder(inputs_embeds=embedded, attention_mask=mask).last_hidden_state
        return T5Prefix(projected, self.dropout(memory), mask)

    def hidden_states(self, prefix: T5Prefix, tokens: Tensor) -> Tensor:
        return self.model.decoder(
            inputs_embeds=self.dropout(self.model.shared(tokens)),
            encoder_hidden_states=prefix.memory,
            encoder_attention_mask=prefix.mask,
            use_cache=False,
        ).last_hidden_state

    def start(self, prefix: T5Prefix) -> DecoderState:
        return DecoderState(self.model.decoder, prefix.memory, prefix.mask)

    def step(self, state: DecoderState, tokens: Tensor) -> Tensor:
        return state.step(self.model.shared(tokens))

    def reorder(self, state: DecoderState, index: Tensor) -> None:
        state.reorder(index)

    def logits(self, hidden: Tensor) -> Tensor:
        return self.model.lm_head(self.dropout(hidden))


def is_lora_name(name: str) -> bool:
    """Whether a parameter of a T5 belongs to its adapters."""
    return re.search(r"\.lora_[AB]\.", name) is not None
