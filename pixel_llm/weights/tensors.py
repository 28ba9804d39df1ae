"""Named tensors from files, and putting them into modules with errors that say what does not fit."""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from torch import Tensor, nn

from pixel_llm.weights.checkpoint import read_checkpoint
from pixel_llm.weights.frozen import join_frozen
from pixel_llm.weights.tensor_files import read_pytorch, read_safetensors

_SHOWN = 5


def read_tensors(path: Path | str) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of a PyTorch file holding a state dict, bare or under "state_dict".

    Nothing is executed: PyTorch files are read with weights_only. Raises FileNotFoundError, and ValueError for
    a file that is neither.
    """
    path = Path(path)
    if path.is_dir():
        return dict(read_checkpoint(path)["state_dict"])
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    content = read_safetensors(path) if path.suffix == ".safetensors" else read_pytorch(path)
    if isinstance(content, dict):
        join_frozen(content, path)
    content = content.get("state_dict", content) if isinstance(content, dict) else {}
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise ValueError(f"{path}: holds no named tensors")
    return tensors


def load_parts(path: Path | str, parts: Mapping[str, nn.Module], absent: Collection[str] = ()) -> None:
    """Load modules out of one file by the prefixes of their names there, such as {"core.sam_encoder.": encoder}.

    absent: as in `check_fit`.
    Raises what `read_tensors` and `load_tensors` raise, and ValueError where a prefix does not occur.
    """
    tensors = read_tensors(path)
    for prefix, module in parts.items():
        own = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        if not own:
            raise ValueError(f"{path}: no tensor named {prefix}*")
        load_tensors(module, own, f"{path}: {prefix}*", absent=absent)


def load_tensors(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    source: str,
    optional: Collection[str] = (),
    absent: Collection[str] = (),
) -> None:
    """Copy tensors into a module by name; arguments and errors as in `check_fit`."""
    matched = check_fit(module, tensors, source, optional, absent)
    module.load_state_dict({name: tensors[name] for name in matched}, strict=False)


def check_fit(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    source: str,
    optional: Collection[str] = (),
    absent: Collection[str] = (),
) -> list[str]:
    """The names under which tensors fit a module; all of the module and all of the tensors must find their match.

    source: what to call the tensors in errors.  optional: beginnings of names in `tensors` that the module may lack.
    absent: beginnings of names in the module that `tensors` may lack, all of them together or none.
    Raises ValueError naming what is unmatched on either side, or the first tensor of another shape.
    """
    state = module.state_dict(keep_vars=True)
    matched = [name for name in tensors if name in state]
    covered = {id(state[name]) for name in matched}  # a tied parameter has several names
    kept = tuple(part for part in absent if not any(name.startswith(part) for name in tensors))
    missing = [name for name, value in state.items() if id(value) not in covered and not name.startswith(kept)]
    unknown = [name for name in tensors if name not in state and not name.startswith(tuple(optional))]
    if missing or unknown:
        raise ValueError(f"{source}: does not fit: lacks {_some(missing)}; has {_some(unknown)} too many")
    for name in matched:
        got, wanted = tuple(tensors[name].shape), tuple(state[name].shape)
        if got != wanted:
            raise ValueError(f"{source}: another size: {name} has shape {got}, the model wants {wanted}")
    return matched


def _some(names: Iterable[str]) -> str:
    names = sorted(names)
    shown = ", ".join(names[:_SHOWN]) or "nothing"
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
