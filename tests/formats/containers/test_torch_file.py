"""PyTorch checkpoints are read without PyTorch: what it wrote comes back, whatever is wrapped
around it.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import enum
import functools
import logging
import os
import pathlib
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared.errors import CheckpointError, FrameworkError
from shared.formats.containers.archive import Archive, Entry
from shared.formats.containers.registry import read_archive
from shared.formats.containers.torch_file import read, sniff_zip, write

torch = pytest.importorskip("torch")

from tests.formats.torch_files import refused, save, tensor, toy, write_legacy


def as_numpy(tensor: Any) -> np.ndarray:
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        import ml_dtypes

        return tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def assert_same(archive: Archive, tensors: dict[str, Any]) -> None:
    assert list(archive.entries) == list(tensors)
    for name, entry in archive.entries.items():
        expected, found = as_numpy(tensors[name]), entry.load()
        assert (
            (entry.shape, entry.dtype)
            == (expected.shape, expected.dtype)
            == (found.shape, found.dtype)
        )
        assert found.flags.c_contiguous
        assert found.flags.writeable
        np.testing.assert_array_equal(found, expected)


# What PyTorch writes.


@pytest.mark.parametrize(
    "dtype",
    [
        "float32",
        "float64",
        "float16",
        "bfloat16",
        "int64",
        "int32",
        "int16",
        "int8",
        "uint8",
        "bool",
        "uint16",
    ],
)
def test_every_dtype_of_a_state_dict(tmp_path, layout, dtype):
    tensors = {
        "w": torch.tensor([[0, 1, 2], [3, 100, 0]]).to(getattr(torch, dtype)),
        "s": torch.ones(()),
    }
    archive = read(save(tmp_path / "a.pth", tensors, layout))
    assert_same(archive, tensors)
    assert archive.container == "torch"
    assert (archive.stripped_prefixes, archive.metadata) == ((), {})


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_module_as_it_is_saved(tmp_path, layout, protocol):
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, bias=False), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 2)
    )
    path = save(tmp_path / "a.pth", model.state_dict(), layout, pickle_protocol=protocol)
    archive = read(path)
    assert_same(archive, dict(model.state_dict()))
    tracked = archive.entries["1.num_batches_tracked"]
    assert (tracked.shape, tracked.dtype) == ((), np.int64)


@pytest.mark.parametrize("name", ["0.weight", "x" * 400, "μ\u202e\n", "", "../../etc/passwd"])
def test_a_name_is_only_a_key(tmp_path, layout, name):
    assert_same(
        read(save(tmp_path / "a.pth", {name: torch.ones(2)}, layout)), {name: torch.ones(2)}
    )


def test_parameters_views_and_shared_storage(tmp_path, layout):
    base = torch.arange(120.0).reshape(2, 3, 4, 5)
    half = torch.arange(30).bfloat16().reshape(5, 6)
    tensors = {
        "parameter": torch.nn.Parameter(base.clone()),
        "base": base,
        "slice": base[1:, :, 1:3],
        "transposed": base.permute(3, 1, 0, 2),
        "strided": base[:, 1, ::2, 3],
        "channels_last": base.to(memory_format=torch.channels_last),
        "expanded": torch.ones(1, 3).expand(4, 3),
        "bfloat16": half.t(),
        "bool": (base > 50).transpose(0, 3),
        "empty": base[:, :0],
        "scalar": base[1, 2, 3, 4],
    }
    assert_same(read(save(tmp_path / "a.pth", tensors, layout)), tensors)


def test_values_are_read_anew_from_the_disk(tmp_path):
    path = save(tmp_path / "a.pth", {"w": torch.zeros(3), "v": torch.zeros(4, 2).t()})
    entries = read(path).entries
    entries["w"].load()[:] = 9
    assert not entries["w"].load().any()
    path.write_bytes(path.read_bytes()[:300])
    for entry in entries.values():
        with pytest.raises(CheckpointError, match="shorter"):
            entry.load()


def test_as_python_2_wrote_it(tmp_path):
    """Ordered dicts of pairs, and names as byte strings: the first model zoo of PyTorch."""
    pair = b"](" + b"U\x05fc.wt" + tensor() + b"e"
    body = b"\x80\x02ccollections\nOrderedDict\n](" + pair + b"e\x85R."
    assert read(write_legacy(tmp_path / "a.pth", body)).entries["fc.wt"].shape == (2, 3)
    broken = b"\x80\x02}U\x02w\xc3" + tensor() + b"s."
    refused(
        write_legacy(tmp_path / "b.pth", broken), "a key that is a bytes"
    )  # no text, so no name


def test_the_real_file_of_another_project():
    folder = os.environ.get("ROSETTA_TEST_DATA")
    if not folder:
        pytest.skip("ROSETTA_TEST_DATA is not set")
    path = Path(folder, "akamaster/resnet20-12fca82f.th")
    archive = read(path)
    expected = torch.load(path, map_location="cpu", weights_only=True)
    assert_same(archive, {f"state_dict/{n}": t for n, t in expected["state_dict"].items()})
    assert archive.metadata["best_prec1"].startswith("91.7")


# What checkpoints wrap around it.


@pytest.mark.parametrize("keys", [["state_dict"], ["net", "params", "weights"], ["model_ema"], []])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
def test_the_whole_tree_is_handed_over(tmp_path, layout, keys, prefix):
    """Tensors are called by the keys that lead to them; which of them are meant is for others."""
    value: Any = {prefix + name: t for name, t in toy().items()}
    for key in reversed(keys):
        value = {key: value}
    archive = read(save(tmp_path / "a.pth", value, layout))
    assert_same(archive, {"/".join((*keys, prefix + name)): t for name, t in toy().items()})
    assert archive.stripped_prefixes == ()


def test_dicts_and_lists_beside_each_other(tmp_path, layout):
    value = {
        "model_ema": {"w": torch.zeros(1)},
        "state_dict": {"w": torch.ones(1)},
        "list": [{"a": torch.ones(2)}, 3, torch.ones(3)],
        "net": {},
        "model": 3,
        7: {0.5: {"deep": torch.ones(4)}},
    }
    expected = {
        "model_ema/w": torch.zeros(1),
        "state_dict/w": torch.ones(1),
        "list/0/a": torch.ones(2),
        "list/2": torch.ones(3),
        "7/0.5/deep": torch.ones(4),
    }
    assert_same(read(save(tmp_path / "a.pth", value, layout)), expected)


def test_two_tensors_of_one_name_are_refused(tmp_path, layout):
    value = {"a": {"b": torch.ones(1)}, "a/b": torch.ones(1)}
    refused(save(tmp_path / "a.pth", value, layout), "two of its tensors are called")


def test_a_training_checkpoint(tmp_path, layout):
    model = torch.nn.Linear(3, 2)
    momentum = {"step": torch.tensor(1.0), "exp_avg": torch.ones(2, 3)}
    value = {
        "epoch": 90,
        "arch": "resnet50",
        "acc": np.float64(76.5),
        "top5": np.float32(0.5),
        "steps": np.int64(-3),
        "resumed": False,
        "best_prec1": torch.tensor(76.5),
        "model": model.state_dict(),
        "optimizer": {
            "state": {0: momentum},
            "param_groups": [{"betas": (0.9, 0.999), "params": [0, 1]}],
        },
        "lr_scheduler": {"milestones": collections.Counter({30: 1, 60: 1})},
        "args": argparse.Namespace(
            lr=0.1, sizes=(1, 2), size=torch.Size([1]), device=torch.device("cpu")
        ),
        "bytes": b"\x00\xff",
        "dtype": torch.float16,
        "nothing": None,
        "text of two\nlines": 1,
        3: "not a name",
    }
    archive = read(save(tmp_path / "a.pth", value, layout))
    state = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    inner = {f"optimizer/state/0/{name}": tensor for name, tensor in momentum.items()}
    assert_same(archive, {"best_prec1": value["best_prec1"], **state, **inner})
    assert archive.metadata == {
        "epoch": "90",
        "arch": "resnet50",
        "acc": "76.5",
        "top5": "0.5",
        "steps": "-3",
        "resumed": "False",
    }


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (torch.ones(2), "single tensor"),
        ({}, "without names"),
        ({"epoch": 3, "lr": 0.1}, "'epoch', 'lr'"),
        ({0.5: torch.ones(1)}, "a key that is a float"),
    ],
)
def test_no_state_dict(tmp_path, layout, value, words):
    refused(save(tmp_path / "a.pth", value, layout), words)


class Block(torch.nn.Module):
    """A module with whatever else people's modules hold."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(2, 3, 1, bias=False)
        self.norm = functools.partial(torch.nn.BatchNorm2d, eps=1e-3)(3)
        self.make = functools.partial(torch.nn.BatchNorm2d, eps=1e-3)
        self.act, self.function, self.method = torch.nn.ReLU, torch.relu, self.conv.forward
        self.register_buffer("grid", torch.ones(2), persistent=False)
        self.register_buffer("kept", torch.arange(3))
        self.plain = torch.ones(5)  # is in no state dict
        self.path, self.names = pathlib.Path("/x"), {"a", "b"}


def net() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(Block(), torch.nn.Sequential(Block(), torch.nn.Linear(3, 2)))


@pytest.mark.parametrize("wrap", [dict, list, argparse.Namespace, None], ids=str)
def test_a_whole_model(tmp_path, layout, wrap):
    """Under the names of its state dict, behind the keys that lead to it; nothing is imported."""
    model = net()
    value = {dict: {"model": model}, list: [model], argparse.Namespace: argparse.Namespace(m=model)}
    prefix = {dict: "model/", list: "0/", argparse.Namespace: "m/", None: ""}[wrap]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of old layouts, that they are old
        path = save(tmp_path / "a.pth", value.get(wrap, model), layout)
    found = read(path)
    expected = {f"{prefix}{name}": t.numpy() for name, t in model.state_dict().items()}
    assert list(found.entries) == list(expected)
    assert all((found.entries[n].load() == a).all() for n, a in expected.items())


class Order(enum.Enum):
    FIRST = 1


def scheduler() -> torch.optim.lr_scheduler.StepLR:
    return torch.optim.lr_scheduler.StepLR(torch.optim.SGD([torch.ones(1)], 0.1), 3)


# What people keep beside weights.
STRAYS: dict[str, Callable[[], Any]] = {
    "paths": lambda: [pathlib.Path("/x"), pathlib.PurePosixPath("y")],
    "times": lambda: [datetime.datetime(2020, 1, 1), datetime.timedelta(3)],
    "enum": lambda: Order.FIRST,
    "logger": lambda: logging.getLogger("x"),
    "pattern": lambda: re.compile("a+"),
    "random": lambda: np.random.default_rng(0),
    "old random": lambda: np.random.RandomState(0),
    "defaults": lambda: collections.defaultdict(list, a=[1]),
    "deque": lambda: collections.deque([1, 2]),
    "set": lambda: frozenset({1, "a"}),
    "complex": lambda: 1j,
    "dtype": lambda: torch.float16,
    "numpy": lambda: [np.float32, np.dtype("f4"), np.float64(2.5)],
    "scheduler": scheduler,
    "version": lambda: torch.torch_version.TorchVersion("2.0"),
}


@pytest.mark.parametrize("name", STRAYS)
def test_one_stray_object_bars_no_tensors(tmp_path, layout, name):
    found = read(save(tmp_path / "a.pth", {"w": torch.ones(2), name: STRAYS[name]()}, layout))
    assert "w" in found.entries
    others = [other for other in found.entries if other != "w"]
    assert all(other.startswith("scheduler/") for other in others)


def test_a_method_that_was_not_called(tmp_path, layout):
    """`torch.save(model.state_dict)`, as it happens."""
    model = net()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = read(save(tmp_path / "a.pth", model.state_dict, layout))
    assert list(found.entries) == list(model.state_dict())


class small_net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(2, 3, 1)


def test_a_class_that_is_called_like_a_function(tmp_path, layout):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = read(save(tmp_path / "a.pth", small_net(), layout))
    assert list(found.entries) == ["conv.weight", "conv.bias"]


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize("make", ["script", "trace"])
def test_torchscript(tmp_path, make):
    model = torch.nn.Sequential(
        collections.OrderedDict(
            conv1=torch.nn.Conv2d(2, 3, 1), bn1=torch.nn.BatchNorm2d(3), seq=torch.nn.Sequential()
        )
    ).eval()
    image = torch.ones(1, 2, 4, 4)
    program = torch.jit.script(model) if make == "script" else torch.jit.trace(model, image)
    program.save(str(tmp_path / "a.pt"))
    found = read(tmp_path / "a.pt")
    assert found.entries.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert (found.entries[name].load() == value.numpy()).all()
    shutil.copy(tmp_path / "a.pt", tmp_path / "a.torchscript")
    assert read_archive(tmp_path / "a.torchscript").container == "torch"
    frozen = torch.jit.freeze(torch.jit.script(model))
    frozen.save(str(tmp_path / "b.pt"))
    refused(tmp_path / "b.pt", "TorchScript", "constants of its program")


def test_arrays_beside_tensors(tmp_path, layout):
    value = {"a": torch.ones(2), "mean": np.arange(3.0), "names": np.array(["x"]), "n": np.int64(3)}
    found = read(save(tmp_path / "a.pth", value, layout))
    assert list(found.entries) == ["a", "mean"]
    assert found.entries["mean"].load().tolist() == [0, 1, 2]
    assert found.metadata["n"] == "3"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: torch.eye(3).to_sparse(), "_rebuild_sparse_tensor is not supported"),
        (lambda: torch.ones(2, dtype=torch.complex64), "ComplexFloatStorage is not supported"),
        (lambda: torch.ones(2, device="meta"), "_rebuild_meta_tensor_no_storage is not supported"),
    ],
    ids=["sparse", "complex", "meta"],
)
def test_other_kinds_of_tensors_are_refused_by_name(tmp_path, layout, make, words):
    refused(save(tmp_path / "a.pth", {"w": make()}, layout), words)


def test_sniff_zip():
    assert sniff_zip(["archive/version", "archive/data.pkl", "archive/data/0"])
    for names in (
        [],
        ["config.json", "model.weights.h5"],
        ["a.npy"],
        ["data.pkl"],
        ["a/b/data.pkl"],
    ):
        assert not sniff_zip(names)


# Writing.


def archive_of(arrays: dict[str, np.ndarray]) -> Archive:
    return Archive(
        "torch", {name: Entry.of(array) for name, array in arrays.items()}, {"epoch": "3"}
    )


def test_what_is_written_is_a_state_dict(tmp_path):
    import ml_dtypes

    arrays = {
        "conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2).transpose(3, 2, 1, 0),
        "bn.bias": np.arange(3, dtype=ml_dtypes.bfloat16),
        "bn.num_batches_tracked": np.array(7),
        "half": np.arange(4, dtype=np.float16)[::-1],
        "double": np.broadcast_to(np.float64(3), (2, 3)),
    }
    path = tmp_path / "a.pth"
    write(path, archive_of(arrays))
    loaded = torch.load(path, weights_only=True)
    assert isinstance(loaded, collections.OrderedDict)
    archive = read(path)
    assert archive.metadata == {}
    assert_same(archive, loaded)
    for name, array in arrays.items():
        np.testing.assert_array_equal(archive.entries[name].load(), array)
        assert archive.entries[name].dtype == array.dtype


def test_the_name_of_the_file_is_not_in_the_file(tmp_path):
    for name in ("a.pth", "other.tmp"):
        write(tmp_path / name, archive_of({"w": np.ones(3)}))
    assert (tmp_path / "a.pth").read_bytes() == (tmp_path / "other.tmp").read_bytes()


def test_what_pytorch_lacks_is_not_written(tmp_path):
    with pytest.raises(CheckpointError, match="PyTorch has no"):
        write(tmp_path / "a.pth", archive_of({"w": np.array(["a"])}))


def test_a_folder_is_not_written(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be written"):
        write(tmp_path, archive_of({"w": np.ones(3)}))


def test_without_pytorch_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # imports as if it were not there
    with pytest.raises(FrameworkError, match=r"pip install 'resnet-rosetta\[torch\]'"):
        write(tmp_path / "a.pth", archive_of({"w": np.ones(3)}))


def test_reading_needs_neither_pytorch_nor_pickle(tmp_path):
    path = save(tmp_path / "a.pth", {"state_dict": toy(), "args": argparse.Namespace(lr=0.1)})
    code = (
        "import sys; from pathlib import Path; from shared.formats.containers.torch_file import "
        "read\n"
        "before = set(sys.modules)\n"
        f"archive = read(Path({str(path)!r})); [entry.load() for entry in "
        "archive.entries.values()]\n"
        "print('torch' in sys.modules, sorted({'argparse', 'os.system'} & (set(sys.modules) - "
        "before)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "[]"]


def test_large_files_are_not_held_in_memory(tmp_path):
    path = save(tmp_path / "a.pth", {"w": torch.zeros(1 << 23), "v": torch.zeros(2)})
    import tracemalloc

    tracemalloc.start()
    try:
        entries = read(path).entries
        entries["v"].load()
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert entries["w"].load().size == 1 << 23
