"""T5 and decoding against the published ones."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from pixel_llm.core.decoding import DecodingRule, decode
from pixel_llm.core.t5 import T5, T5Prefix
from pixel_llm.weights import published
from tests.parity.golden import read_golden
from tests.parity.report import Report

TOLERANCE = 2e-5


def check_text_decoder_t5(report: Report, path: Path) -> None:
    golden = read_golden(path)
    visual = golden.inputs("noctx", "visual_features")
    lm = T5(**t5_sizes(golden.parameters, "t5_module/"), visual_width=visual.shape[-1], trainable="nothing").eval()
    if any("lora" in name for name in golden.parameters):
        _inject_uneven_lora(lm, golden.config)
    published.load(torch.nn.ModuleDict({"model": lm.model}), "textual", golden.parameters)
    valid = torch.as_tensor(golden.arrays["valid_query_mask"])
    for case in golden.outputs:
        context = None if case == "noctx" else golden.inputs(case, "context_tokens").long()
        lm.visual_projection = torch.nn.Identity()  # the published head is given projected features
        prefix = lm.encode_prefix(golden.inputs(case, "visual_features"), context)
        hidden = lm.hidden_states(prefix, golden.inputs(case, "text_tokens").long())
        for output, got in (("feat", hidden), ("logits", lm.logits(hidden))):
            want = torch.as_tensor(golden.output(case, output))[valid]
            report.check(golden.name, f"{case}/{output}, rows with a target", got[valid], want, TOLERANCE)
    report.skip(golden.name, "not built: rows without a target, where the published masks make attention uniform")


class UniformT5(T5):
    """T5 with the published masks: what is padding, or has no next token to predict, reads everything alike.

    Those states say nothing, but the published mask adapter reads them as well. Fused kernels find them, but get
    their gradients wrong: the logarithm that they keep of a row's sum drowns in the size of the mask.
    """

    @sdpa_kernel(SDPBackend.MATH)
    def encode_prefix(self, visual: Tensor, context: Tensor | None) -> T5Prefix:
        prefix = super().encode_prefix(visual, context)
        embedded, valid = prefix.visual, prefix.mask > 0
        if context is not None:
            embedded = torch.cat([embedded, self.model.shared(context)], dim=1)
        mask = _additive(valid[:, :, None] & valid[:, None])
        memory = self.model.encoder(inputs_embeds=embedded, attention_mask=mask).last_hidden_state
        return T5Prefix(prefix.visual, memory, prefix.mask)

    @sdpa_kernel(SDPBackend.MATH)
    def hidden_states(self, prefix: T5Prefix, tokens: Tensor) -> Tensor:
        target = F.pad(tokens[:, 1:], (0, 1)) != self.pad_id
        return self.model.decoder(
            inputs_embeds=self.model.shared(tokens),
            attention_mask=_additive((target[:, :, None] & target[:, None]).tril()),
            encoder_hidden_states=prefix.memory,
            encoder_attention_mask=_additive(target[:, :, None] & (prefix.mask[:, None] > 0)),
            use_cache=False,
        ).last_hidden_state


def _additive(mask: Tensor) -> Tensor:
    """bool[P, T, S] -> float[P, 1, T, S]: finite, so that a row without any True attends evenly."""
    return torch.where(mask[:, None], 0.0, torch.finfo(torch.float32).min)


def t5_sizes(parameters: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Constructor arguments of a T5 from the shapes of its published parameters."""
    query = parameters[f"{prefix}encoder/layers_0/attention/query/kernel"].shape
    heads = parameters[f"{prefix}encoder/relpos_bias/rel_embedding"].shape[0]
    layers = {int(m[1]) for name in parameters if (m := re.search(r"encoder/layers_(\d+)/", name))}
    return {
        "width": query[0],
        "layers": len(layers),
        "heads": heads,
        "head_width": query[1] // heads,
        "feed_forward": parameters[f"{prefix}encoder/layers_0/mlp/wi_0/kernel"].shape[1],
        "vocabulary_size": parameters[f"{prefix}token_embedder/embedding"].shape[0],
        "dropout": 0.0,
    }


def _inject_uneven_lora(lm: T5, config: dict[str, Any]) -> None:
    """Another rank and other sites in each stack, which no shipped configuration has; ours has one of each."""
    from peft import LoraConfig, inject_adapter_in_model

    ranks, sites = {}, []
    for stack in ("encoder", "decoder"):
        names = "|".join(config[f"{stack}_lora_modules"].split(","))
        sites.append(rf"{stack}\..*Attention\.({names})")
        ranks[rf"{stack}\..*"] = config[f"{stack}_lora_rank"]
    alphas = {site: rank * config["encoder_lora_scale"] for site, rank in ranks.items()}
    targets = "|".join(f"({site})" for site in sites)
    settings = LoraConfig(target_modules=targets, rank_pattern=ranks, alpha_pattern=alphas)
    inject_adapter_in_model(settings, lm.model)


class _Bigram:
    """A language model whose next-token logits depend on the last token alone; its state is the row of a table."""

    def __init__(self, table: Tensor, bos_id: int, eos_id: int) -> None:
        self.table, self.width = table, table.shape[1]
        self.bos_id, self.eos_id, self.pad_id = bos_id, eos_id, eos_id

    def start(self, prefix: None) -> None:
        return None

    def step(self, state: None, tokens: Tensor) -> Tensor:
        return self.table[tokens]

    def reorder(self, state: None, index: Tensor) -> None:
        return None

    def logits(self, hidden: Tensor) -> Tensor:
        return hidden


def check_decode_bigram(report: Report, path: Path) -> None:
    """Greedy and the best beam of each row; the published code returns all beams, ours the best."""
    golden = read_golden(path)
    length = golden.config["max_steps"]
    for case, outputs in golden.outputs.items():
        number = re.search(r"\d+", case)
        assert number is not None
        table = torch.from_numpy(golden.arrays[f"table/{number[0]}"])
        lm: Any = _Bigram(table, golden.config["bos"], golden.config["eos"])
        if "tokens" in outputs:
            rule = DecodingRule(length, forbid_repeat=True)
            want, score = golden.output(case, "tokens"), golden.output(case, "log_prob")
        else:
            beams, per_beam = map(int, re.findall(r"_[bn](\d+)", case))
            rule = DecodingRule(length, beams, candidates_per_beam=per_beam)
            want, score = golden.output(case, "seqs")[:, -1], golden.output(case, "scores")[:, -1]
        got = decode(lm, None, golden.inputs(case, "begin")[:, 0].long(), rule)
        padded = torch.full((len(want), length), lm.pad_id)
        padded[:, : got.tokens.shape[1]] = got.tokens
        report.check(golden.name, f"{case}/tokens", padded, want, 0.0)
        report.check(golden.name, f"{case}/score", got.scores, score, TOLERANCE)
