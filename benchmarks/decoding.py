"""Time per token of our greedy decoding, locations included, against transformers' `generate` on the same T5.

    python -m benchmarks.decoding
"""

from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from benchmarks.report import cpu_seconds, say, section
from pixel_llm.core.build import t5
from pixel_llm.core.decoding import DecodingRule, decode
from pixel_llm.core.location_head import LocationHead
from pixel_llm.core.t5 import T5, T5Prefix

QUERY_TOKENS, CONTEXT_TOKENS, TOKENS, VISUAL_WIDTH = 32, 8, 40, 256

TEXT = f"""T5 with random weights continues the same encoded prefix of {QUERY_TOKENS + CONTEXT_TOKENS} tokens greedily
by {TOKENS - 1} tokens. Ours: the search and the location of every word. transformers: `generate` with its cache,
words only. The aim is the largest ratio of the two times."""
AIM = "1.1"
HEADER = ["T5", "prompts", "ours, ms per token", "transformers, ms per token", "ratio", "aim", "same words"]


def small() -> T5:
    """The T5 of `reference-27m`."""
    return T5(
        width=256, layers=4, heads=4, head_width=64, feed_forward=512, vocabulary_size=8000,
        visual_width=VISUAL_WIDTH, trainable="nothing",
    )  # fmt: skip


def released() -> T5:
    return t5("small", visual_width=VISUAL_WIDTH, trainable="nothing")


def ours(lm: T5, head: LocationHead, prefix: T5Prefix) -> Tensor:
    first = torch.full((len(prefix.memory),), lm.bos_id)
    decoded = decode(lm, prefix, first, DecodingRule(max_tokens=TOKENS))
    head(decoded.hidden)
    return decoded.tokens[:, :-1]  # the last place is reserved for </s>


def theirs(lm: T5, prefix: T5Prefix) -> Tensor:
    model: Any = lm.model  # transformers' types do not know that a T5 generates
    return model.generate(
        encoder_outputs=BaseModelOutput(last_hidden_state=prefix.memory),
        attention_mask=prefix.mask,
        decoder_start_token_id=lm.bos_id,
        max_new_tokens=TOKENS - 1,
        do_sample=False,
        num_beams=1,
    )


@torch.no_grad()
def compare(name: str, lm: T5, prompts: int) -> tuple[object, ...]:
    lm.eval()
    lm.model.lm_head.weight[lm.eos_id] = 0  # among thousands of random logits 0 is never the largest: no caption ends
    head = LocationHead(width=lm.width)
    context = torch.randint(3, lm.vocabulary_size, (prompts, CONTEXT_TOKENS))
    prefix = lm.encode_prefix(torch.randn(prompts, QUERY_TOKENS, VISUAL_WIDTH), context)
    same = torch.equal(ours(lm, head, prefix), theirs(lm, prefix)[:, : TOKENS - 1])
    our_ms, their_ms = (
        1000 * cpu_seconds(run, repeats=5) / (TOKENS - 1)
        for run in (lambda: ours(lm, head, prefix), lambda: theirs(lm, prefix))
    )
    ratio = f"{our_ms / their_ms:.2f}"
    row = (name, prompts, f"{our_ms:.2f}", f"{their_ms:.2f}", ratio, AIM, "yes" if same else "no")
    say(f"   {name}, {prompts} prompts: {row[2]} against {row[3]} ms")
    return row


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    models = {"8 million parameters": small(), "small, 77 million": released()}
    rows = [compare(name, lm, prompts) for name, lm in models.items() for prompts in (1, 16)]
    print(section("Decoding", TEXT, HEADER, rows))


if __name__ == "__main__":
    main()
