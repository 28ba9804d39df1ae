"""With its weights shared out over two processes a single transformer has the gradients that it has in one."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.utils.checkpoint import checkpoint
from transformers import Qwen3Config, Qwen3ForCausalLM

from pixel_llm.core.decoding import DecodingRule
from pixel_llm.pixel_sail.hugging_face import HuggingFaceBackbone
from pixel_llm.pixel_sail.mask_head import MaskHead
from pixel_llm.pixel_sail.pixel_sail import PixelSail
from pixel_llm.sharding import blocks, gather, shard
from tests.pixel_sail.models import PATCH, SPECIAL, WIDTH, asked, canvases, tiny_sail


def built(kind: str, masks: bool) -> PixelSail:
    torch.manual_seed(7)
    backbone = None
    if kind == "adapter":
        sizes = {"intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
        backbone = HuggingFaceBackbone(
            Qwen3ForCausalLM(Qwen3Config(vocab_size=50, hidden_size=WIDTH, head_dim=8, **sizes)), SPECIAL
        )
    head = MaskHead(width=WIDTH, patch=PATCH, stride=4, embedding=6) if masks else None
    return tiny_sail(backbone, mask_head=head)


def step(model: PixelSail, masks: bool) -> None:
    """Without masks no gradient reaches the states of patches, only their keys and values."""
    read = model.encode_images(*canvases((16, 24), (8, 8), side=(16, 24)))
    tokens = torch.tensor([[1, 20, SPECIAL.seg, 2], [1, 21, SPECIAL.seg, 2]])
    said = model(read, asked([0, 1], [[5, 6], [7]]), tokens)
    loss = said.logits.logsumexp(-1).sum()
    if masks:
        hidden = said.hidden[tokens == SPECIAL.seg]
        loss = loss + model.masks(model.mask_features(read), hidden, torch.tensor([0, 1])).sum()
    loss.backward()


def process(rank: int, folder: str, kind: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    for masks in (False, True):
        whole, task = built(kind, masks), nn.Module()
        step(whole, masks)
        answers = whole.generate(*question(whole), DecodingRule(max_tokens=6)).tokens
        task.core = shared = built(kind, masks)
        for block in blocks(shared):
            block.forward = again(block.forward)
        shard(task, shared, init_device_mesh("cpu", (2,)))
        step(shared, masks)
        for (name, value), other in zip(whole.named_parameters(), shared.parameters(), strict=True):
            torch.testing.assert_close(other.grad.full_tensor(), value.grad, atol=1e-5, rtol=1e-4, msg=name)
        gather(shared, True)
        assert shared.generate(*question(shared), DecodingRule(max_tokens=6)).tokens.tolist() == answers.tolist()
    distributed.destroy_process_group()


def question(model: PixelSail) -> tuple[Any, Any]:
    return model.encode_images(*canvases((16, 24), side=(16, 24))), asked([0], [[5, 6]])


def again(forward: Any) -> Any:
    """As activation checkpointing has it."""
    return lambda *a, **k: checkpoint(forward, *a, use_reentrant=False, **k)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["native", "adapter"])
def test_shared_out_gradients_and_answers_are_those_of_one_process(tmp_path: Path, kind: str) -> None:
    mp.spawn(process, (str(tmp_path), kind), nprocs=2)
