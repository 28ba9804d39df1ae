"""Named tensors from files into modules: what fits, and what the errors say about what does not."""

import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pixel_llm.weights.tensors import load_parts, load_tensors, read_tensors


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(5, 3)
        self.output = nn.Linear(3, 5, bias=False)
        self.output.weight = self.words.weight


class Explosive:
    def __reduce__(self):
        return (pytest.fail, ("a file was executed",))


def test_formats(tmp_path):
    tensors = {"a.weight": torch.randn(2, 3)}
    save_file(tensors, tmp_path / "x.safetensors")
    torch.save(tensors, tmp_path / "x.pth")
    torch.save({"state_dict": tensors, "epoch": 3}, tmp_path / "x.ckpt")
    for name in ("x.safetensors", "x.pth", "x.ckpt"):
        assert torch.equal(read_tensors(tmp_path / name)["a.weight"], tensors["a.weight"])


def test_missing_foreign_and_hostile_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.pth: no such file"):
        read_tensors(tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("hello")
    (tmp_path / "text.safetensors").write_text("hello")
    (tmp_path / "hostile.pth").write_bytes(pickle.dumps(Explosive(), protocol=2))
    for name in ("text.pth", "text.safetensors", "hostile.pth"):
        with pytest.raises(ValueError, match=f"{name}: not a") as error:
            read_tensors(tmp_path / name)
        assert "\n" not in str(error.value)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="holds no named tensors"):
        read_tensors(tmp_path / "list.pth")


def test_one_name_of_a_tied_parameter_is_enough():
    module, weight = Tied(), torch.randn(5, 3)
    load_tensors(module, {"words.weight": weight}, "file")
    assert torch.equal(module.output.weight, weight)


def test_errors_name_what_does_not_fit():
    module = nn.Linear(3, 2)
    weight, bias = torch.zeros(2, 3), torch.zeros(2)
    with pytest.raises(ValueError, match="file: does not fit: lacks bias; has nothing too many"):
        load_tensors(module, {"weight": weight}, "file")
    with pytest.raises(ValueError, match=r"lacks nothing; has scale too many"):
        load_tensors(module, {"weight": weight, "bias": bias, "scale": bias}, "file")
    with pytest.raises(ValueError, match=r"weight has shape \(3, 2\), the model wants \(2, 3\)"):
        load_tensors(module, {"weight": weight.T, "bias": bias}, "file")
    load_tensors(module, {"weight": weight, "bias": bias, "scale": bias}, "file", optional=["sc"])


def test_parts_of_a_checkpoint_by_prefix(tmp_path):
    first, second = nn.Linear(3, 2), nn.Linear(2, 4)
    names = {"core.a.": first, "core.b.": second}
    state = {prefix + name: value for prefix, part in names.items() for name, value in part.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "own.ckpt")
    fresh = nn.Linear(2, 4)
    load_parts(tmp_path / "own.ckpt", {"core.b.": fresh})
    assert torch.equal(fresh.weight, second.weight)
    with pytest.raises(ValueError, match=r"own.ckpt: no tensor named core\.c\.\*"):
        load_parts(tmp_path / "own.ckpt", {"core.c.": fresh})
