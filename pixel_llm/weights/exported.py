"""A model to give away: a folder with `model.safetensors`, `config.yaml` and `tokenizer.json`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from pixel_llm.weights.frozen import distinct, fingerprint, join_frozen
from pixel_llm.weights.tensor_files import read_safetensors
from pixel_llm.whole_files import whole_file, write_whole

WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.yaml", "tokenizer.json"


def write_exported(
    folder: Path, state: Mapping[str, Tensor], config: str, tokenizer: str, frozen: dict[str, Any] | None = None
) -> None:
    """Write the folder; frozen: the entry of weights that are left out (see `frozen`). OSError where that fails."""
    from safetensors.torch import save_file

    own, aliases = distinct(state)
    about = {"sha256": fingerprint(own), "aliases": aliases, "frozen": frozen}
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in own.items()}
    with whole_file(folder / WEIGHTS) as part:
        save_file(tensors, part, metadata={"pixel_llm": json.dumps(about)})
    for name, text in ((CONFIG, config), (TOKENIZER, tokenizer)):
        write_whole(folder / name, text.encode())


def read_exported(folder: Path) -> dict[str, Any]:
    """What the folder holds in the form of a checkpoint: config, state_dict, tokenizer.

    Raises FileNotFoundError and ValueError with one line for what is missing or damaged, frozen weights included, which
    a folder without them takes from a file `frozen-*.safetensors` put beside.
    """
    from safetensors import safe_open

    for name in (CONFIG, TOKENIZER):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name}: missing from an exported model")
    state = read_safetensors(folder / WEIGHTS)
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        about = json.loads((file.metadata() or {}).get("pixel_llm", "{}"))
    if about.get("sha256") != fingerprint(state):
        raise ValueError(f"{folder / WEIGHTS}: not the weights that were exported, or damaged")
    state |= {name: state[first] for name, first in about["aliases"].items()}
    content = {"config": (folder / CONFIG).read_text(), "state_dict": state}
    content["data"] = {"tokenizer": (folder / TOKENIZER).read_text()}
    if about["frozen"]:
        content["frozen"] = about["frozen"]
        join_frozen(content, folder / WEIGHTS)
    return content
