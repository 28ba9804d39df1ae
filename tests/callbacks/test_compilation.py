"""Compiled blocks compute what the others do, and are compiled a bounded number of times."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from callbacks.activation_checkpointing import ActivationCheckpointing
from callbacks.compilation import Compilation, compile_blocks, is_compiled
from pixel_llm.core.decoding import DecodingRule
from pixel_llm.tasks.referring_localization import ReferringLocalization
from tests.pixel_sail.models import asked, canvases, padded, tiny_sail
from tests.runs import fit, tiny_optimizer, tiny_task, tiny_trainer
from tests.tiny import tiny_core, toy_narratives, toy_referring


@pytest.fixture(autouse=True)
def _forget_what_was_compiled() -> None:
    torch._dynamo.reset()
    counters.clear()


class Graphs(L.Callback):
    """The number of compiled graphs and the sizes of the texts, after each step."""

    def __init__(self) -> None:
        self.counts: list[int] = []
        self.sizes: set[tuple[int, ...]] = set()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        self.counts.append(counters["stats"]["unique_graphs"])
        self.sizes.add(tuple(batch.targets.tokens.shape))


class Gradients(L.Callback):
    """Those of each step, of this process."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Tensor]] = []

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        self.steps.append({n: p.grad.clone() for n, p in pl_module.named_parameters() if p.grad is not None})


@pytest.mark.slow
def test_any_number_of_prompts_and_tokens_takes_a_few_compilations(toy: Path, tmp_path: Path) -> None:
    """Of five kinds of blocks (windows, whole grid, second encoder, T5's two stacks with a first block each)."""
    graphs, losses, names = Graphs(), [], []
    for callbacks in ([], [Compilation("eager"), graphs]):
        task = ReferringLocalization(tiny_core(), tiny_optimizer(1e-4))
        data = toy_referring(toy, batch_size=2, length_multiple=4, context_prompt="where is ")
        losses.append(fit(task, data, tmp_path, 24, callbacks))
        names.append(list(task.state_dict()))
    assert len(graphs.sizes) > 8
    assert graphs.counts[-1] <= 16
    assert graphs.counts[-1] == graphs.counts[7]  # the others are not compiled anew
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert names[1] == names[0]


@pytest.mark.slow
@pytest.mark.parametrize("order", [1, -1])
def test_gradients_are_the_same_with_activations_computed_again(toy: Path, tmp_path: Path, order: int) -> None:
    seen = []
    for callbacks in ([], [Compilation("aot_eager"), ActivationCheckpointing()][::order]):
        gradients = Gradients()
        losses = fit(tiny_task(), toy_narratives(toy, sentences=True), tmp_path, 1, [*callbacks, gradients])
        seen.append((losses, gradients.steps))
    torch.testing.assert_close(seen[1], seen[0], atol=1e-5, rtol=1e-5)
    assert counters["stats"]["unique_graphs"] > 4  # the text's blocks too, which are computed again


@pytest.mark.slow
def test_a_single_transformer_is_compiled_once_for_images_and_twice_for_texts() -> None:
    """And writes as before: a text's first token and its later ones are two more forms each, of one size and of any."""
    plain, compiled = tiny_sail(), tiny_sail()
    compile_blocks(compiled, "eager")
    images, sizes = canvases((32, 24), (24, 32), side=(32, 32))
    for number in range(2, 8):  # questions, and words of their answers
        index = sorted(row % 2 for row in range(number))
        prompts = asked(index, [[3, 4, 5][: number - row] for row in index])
        tokens = padded([[1, *[7] * number, 2]] * number)
        said = [m(m.encode_images(images, sizes, None), prompts, tokens) for m in (plain, compiled)]
        for outputs in said:
            outputs.logits.logsumexp(-1).mean().backward()
        assert counters["stats"]["unique_graphs"] <= 3
    gradients = [{n: p.grad for n, p in m.named_parameters() if p.grad is not None} for m in (plain, compiled)]
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-5, rtol=1e-5)
    written = [m.generate(m.encode_images(images, sizes, None), prompts, DecodingRule(9)) for m in (plain, compiled)]
    assert torch.equal(written[1].tokens, written[0].tokens)
    assert counters["stats"]["unique_graphs"] <= 7


def set_up(callbacks: Sequence[L.Callback], folder: Path) -> L.LightningModule:
    task, trainer = tiny_task(), tiny_trainer(folder, 1, callbacks)
    for callback in callbacks:
        callback.setup(trainer, task, "fit")
    return task


def test_what_is_compiled_is_known(tmp_path: Path) -> None:
    """For the counting of operations, which then leaves off."""
    assert not is_compiled(set_up([], tmp_path))
    assert is_compiled(set_up([Compilation("eager")], tmp_path))
    assert not is_compiled(set_up([ActivationCheckpointing()], tmp_path))
    assert is_compiled(set_up([ActivationCheckpointing(), Compilation("eager")], tmp_path))


def test_a_missing_compiler_is_one_line_before_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch._inductor.config as inductor

    monkeypatch.setattr(inductor.cpp, "cxx", ("no-such-compiler",))
    monkeypatch.setattr(inductor, "force_disable_caches", True)
    with pytest.raises(ValueError, match=r"^torch\.compile does not work here: [^\n]*compiler[^\n]*$"):
        set_up([Compilation()], tmp_path)
