"""`rosetta identify`: the user's own code in a process, its answers, and every wrong target in one
line.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from shared import get_spec, probe_weights
from shared.architecture.presets import miniature
from shared.cli.identify import _comparable
from shared.cli.report_identify import unequal_tensors, verdict
from shared.frameworks.identify import Answer
from shared.graphs.verdict import SAME_FUNCTION, SAME_MODEL, THIS_SIZE
from tests.cli_runner import Rosetta, run_python
from tests.formats.inside_files import net, ones, save, under
from tests.frameworks.folded import folded
from tests.zoo import rest_in_zoo

MODEL = """
import time
import torch
from torch import nn
import helper


class Unit(nn.Module):
    def __init__(self, before, width, stride):
        super().__init__()
        self.first = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.norm_1 = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm_2 = nn.BatchNorm2d(width)
        self.project = None
        if before != width:
            self.project = nn.Sequential(
                nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x):
        skip = x if self.project is None else self.project(x)
        y = torch.relu(self.norm_1(self.first(x)))
        return helper.activate(self.norm_2(self.second(y)) + skip)


class Net(nn.Module):
    def __init__(self, end=True):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        widths = (16, 16, 16, 32, 32, 32, 64, 64, 64)
        before = (16, *widths)
        self.units = nn.Sequential(
            *(Unit(b, w, 1 if b == w else 2) for b, w in zip(before, widths))
        )
        self.head = nn.Linear(64, 10)
        self.end = end

    def forward(self, x):
        x = self.units(torch.relu(self.norm(self.stem(x))))
        return {"features": x, "logits": self.head(x.mean((2, 3)))}


torch.manual_seed(0)
model = Net()


def changed():
    net = Net()
    net.units[4].norm_2 = nn.Identity()
    return net


def other_eps():
    net = Net()
    net.load_state_dict(model.state_dict())
    net.units[4].norm_2.eps = 1e-3
    return net


def wanting_data(x=1):
    class Branching(Net):
        def forward(self, x):
            return super().forward(-x if x.sum() > 0 else x)

    return Branching()


def large():
    return nn.Linear(1 << 20, 1 << 20)


def prepared():
    class Prepared(Net):
        def forward(self, x):
            return torch.softmax(super().forward(x / 255 * 2 - 1)["logits"], -1)

    return Prepared()
"""
WRONG = """
import time

number = 3


def failing():
    raise ValueError("no data set here\\nand a second line")


def endless():
    while True:
        time.sleep(1)


def leaving():
    import os
    os._exit(7)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder."""
    (tmp_path / "mine.py").write_text(MODEL)
    (tmp_path / "helper.py").write_text("import torch\nactivate = torch.relu\n")
    (tmp_path / "wrong.py").write_text(WRONG)
    (tmp_path / "text.pt2").write_text("no program")
    (tmp_path / "text.pth").write_text("no archive")
    (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04" + bytes(100))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_model_its_weights_and_what_it_is_compared_with(
    rosetta: Rosetta, folder: Path, request: pytest.FixtureRequest
) -> None:
    """First in a process of its own."""
    pytest.importorskip("torch")
    target = "python:mine.py:model"
    result = rosetta("identify", target, "-o", "mine.weights.h5", "--json", "-")
    assert result.code == 0, result
    found = result.json
    assert found["recognised"]
    assert found["verdict"] == "same model"
    assert found["spec"]["depths"] == [3, 3, 3]
    assert found["names"]["stages.1.blocks.0.shortcut.conv.weight"] == "units.3.project.0.weight"
    assert found["evidence"]["passed"]
    assert found["evidence"]["dtype"] == "float64"
    assert found["tensors"] == len(found["names"])
    inspected = rosetta("inspect", "mine.weights.h5", "--json", "-").json
    assert inspected["spec"]["depths"] == [3, 3, 3]
    request.getfixturevalue("identified_here")
    same = rosetta("identify", target, "--against", "mine.weights.h5", "--json", "-")
    assert (same.code, same.json["departures"]) == (0, [])


@pytest.mark.parametrize(("by_effects", "said"), [(True, "same function as"), (False, "same as")])
def test_what_is_compared_by_what_it_does_is_the_same_function(by_effects: bool, said: str) -> None:
    found = {"departures": [], "evidence": None, "preset": "", "verdict": THIS_SIZE}
    text = verdict({**found, "by_effects": by_effects}, "b.safetensors", good=True).plain
    assert f"the {said} b.safetensors" in text


@pytest.mark.parametrize("change", [0.0, 1e-3])
def test_folded_norms_are_compared_by_what_they_do(change: float) -> None:
    """A deployed file beside the checkpoint that it was made of: other tensors, and the same."""
    spec = miniature(get_spec("cifar/resnet20"))
    weights = probe_weights(spec, 1, "float32")
    own = folded(spec, weights)
    name = "stages.1.blocks.0.conv1.weight"
    own[name] = own[name] + change * np.abs(own[name]).max()
    answer = Answer({"spec": spec.to_dict(), "verdict": SAME_FUNCTION}, own)
    theirs, ours, note = _comparable(answer, weights)
    rows = {row["ours"]: row["theirs"] for row in unequal_tensors(theirs, ours, {})}
    assert set(rows) == ({name} if change else set())
    assert not change or float(rows[name].rpartition(" ")[2]) > change / 10
    assert ("those of the other side" in note) is not bool(change)
    answer.found["verdict"] = SAME_MODEL  # whose tensors are compared as they are
    assert _comparable(answer, weights) == (own, weights, "")
    assert _comparable(Answer(answer.found, dict(weights)), weights)[2] == ""  # bit by bit
    other = Answer({"spec": spec.to_dict(), "verdict": SAME_MODEL}, weights)
    assert ("those of the other side" in _comparable(other, own)[2]) is not bool(change)


@pytest.mark.zoo
def test_what_is_taken_and_assumed_of_the_other_file_is_said(
    rosetta: Rosetta, folder: Path
) -> None:
    pytest.importorskip("torch")
    both = under("net.", net(1)) | under("net_ema.", net(2)) | ones(proj__weight=(3, 4))
    save(folder, both)
    command = ("identify", "python:mine.py:model", "--against", "file.safetensors")
    rosetta(*command).refused("1 tensor belongs to no ResNet: proj; --leave-out GLOB")
    found = rosetta(*command, "--leave-out", "*", "--json", "-").json
    said = [note for note in found["notes"] if note.startswith("file.safetensors: ")]
    assert "of 2 networks the one at net: raw weights come before" in said[0]
    assert "left out, as they belong to no ResNet: 1 in proj" in said[1]
    assert "assumed, because neither tensors nor file tell" in said[-1]
    assert "norm.eps=1e-05" in said[-1]
    taken = rosetta(*command, "--leave-out", "*", "--take", "net_ema", "--json", "-").json
    assert any("the one at net_ema: --take" in note for note in taken["notes"])


@pytest.mark.usefixtures("identified_here")
def test_a_model_that_departs_is_told_and_its_weights_are_not_written(
    rosetta: Rosetta, folder: Path
) -> None:
    pytest.importorskip("torch")
    result = rosetta("identify", "python:mine.py:changed", "-o", "changed.weights.h5")
    assert result.code == 1
    assert "departs" in result.out
    assert "changed.weights.h5 is not written: the model is no ResNet" in result.out
    assert not (folder / "changed.weights.h5").exists()


def test_a_model_where_a_file_is_read_or_a_format_that_is_none(
    rosetta: Rosetta, folder: Path
) -> None:
    target = "python:mine.py:model"
    rosetta("inspect", target).refused("a model and no file; `rosetta identify` says")
    rosetta("evaluate", target).refused("a model and no file; `rosetta convert` makes one")
    rosetta("identify", target, "-o", "mine.zzz").refused("its name does not say what it shall be")


@pytest.mark.zoo
def test_another_network_is_not_the_same(rosetta: Rosetta, folder: Path) -> None:
    target = "python:mine.py:model"
    other = rosetta("identify", target, "--against", "kuangliu/resnet18", "--json", "-")
    assert other.code == 1
    assert other.json["departures"]


@pytest.mark.zoo
def test_a_live_model_is_carried_to_any_format(rosetta: Rosetta, folder: Path) -> None:
    pytest.importorskip("torch")
    result = rosetta("convert", "python:mine.py:model", "carried.weights.h5", "--json", "-")
    assert result.code == 0, result
    assert result.json["verified"]
    assert rosetta("inspect", "carried.weights.h5", "--json", "-").json["spec"]["depths"] == [3] * 3
    verified = rosetta(
        "verify", "python:mine.py:model", "--framework", "torch,reference", "--check", "eval"
    )
    assert verified.code == 0, verified
    refused = rosetta("convert", "python:mine.py:changed", "changed.weights.h5")
    refused.refused("is not the network of any spec (departures: 1)")
    assert not (folder / "changed.weights.h5").exists()


@pytest.mark.zoo
def test_what_stands_around_a_live_model_is_not_dropped_in_silence(
    rosetta: Rosetta, folder: Path
) -> None:
    pytest.importorskip("torch")
    found = rosetta("convert", "python:mine.py:prepared", "out.safetensors", "--json", "-").json
    assert found["source"]["path"] == "python:mine.py:prepared"
    carried = " ".join(found["notes"])
    assert "its images itself: before the stem: x * 0.00784314 + -1, before the stem, " in carried
    assert "are not carried: " in carried
    assert "behind the head: Softmax" in carried
    (folder / "image.png").write_bytes(b"")
    asked = rosetta("predict", "image.png", "--weights", "python:mine.py:prepared")
    asked.refused("its model prepares the images itself", "say --preprocessing")


@pytest.mark.zoo
def test_the_layers_of_a_model_are_traced_compared_and_diagnosed(
    rosetta: Rosetta, folder: Path
) -> None:
    pytest.importorskip("torch")
    target = "python:mine.py:model"
    traced = rosetta("trace", target, "-o", "mine.safetensors")
    assert traced.code == 0, traced
    assert "each layer is computed by the model's own operators" in traced.out
    assert rosetta("convert", target, "w.safetensors").code == 0
    own = ("--weights", "w.safetensors", "--framework", "reference", "--check", "eval")
    spec = ("cifar/resnet20", "--set", "shortcut.projection=shape")
    assert rosetta("trace", *spec, *own, "-o", "ours.safetensors").code == 0
    assert rosetta("compare", "ours.safetensors", "mine.safetensors").code == 0
    departs = rosetta("trace", "python:mine.py:other_eps", "-o", "eps.safetensors")
    assert "departs from cifar/resnet20 in 1 place, units.4.norm_2" in departs.out
    found = rosetta("diagnose", "w.safetensors", "--io", "eps.safetensors")
    assert "the first layer that differs is stages.1.blocks.1.norm2" in found.out
    refused = "--framework is for presets; the trace of python:mine.py:model takes --output"
    rosetta("trace", target, "-o", "x.safetensors", "--framework", "flax").refused(refused)
    rosetta("trace", target, "-o", "x.safetensors", "--image-size", "32x48").refused("squares")


@pytest.mark.zoo
def test_a_departure_is_named(rosetta: Rosetta, folder: Path) -> None:
    pytest.importorskip("torch")
    result = rosetta("identify", "python:mine.py:changed")
    assert result.code == 1
    assert "✗ departs in 1 place" in result.out
    assert "units.4.second" in result.out
    assert "BatchNorm" in result.out
    assert "mine.py:" in result.out


TORCH = {
    "cannot be traced": (("python:mine.py:wanting_data",), ("PyTorch cannot trace it", "mine.py:")),
    "10 GB of weights": (("python:mine.py:large",), ("memory",)),
    "no program": (("text.pt2",), ("text.pt2: PyTorch cannot load it",)),
}
REFUSALS = {
    "no such file": (("python:nowhere.py:net",), ("there is no file nowhere.py",)),
    "no such model file": (("model.onnx",), ("model.onnx: no such file",)),
    "no name": (("python:mine.py",), ("expected python:FILE.py:NAME",)),
    "cut off": (
        ("cut.pth",),
        ("cut.pth: a PyTorch archive that cannot be read; it may be cut off",),
    ),
    "tensors alone": (("text.pth",), ("text.pth: is no TorchScript program; `rosetta inspect`",)),
    "no such name": (("python:wrong.py:failling",), ("has no 'failling'", "nearest: failing")),
    "no such module": (("python:no_module_here.net:x",), ("ModuleNotFoundError",)),
    "no model": (("python:wrong.py:number",), ("expected a model, found int",)),
    "an exception": (
        ("python:wrong.py:failing",),
        ("python:wrong.py:failing: ValueError at wrong.py:8: no data set here",),
    ),
    "no end": (("python:wrong.py:endless", "--seconds", "2"), ("took longer than 2 s",)),
    "an exit": (("python:wrong.py:leaving",), ("ended with code 7",)),
    "take without a file": (
        ("python:wrong.py:x", "--against", "resnet18", "--take", "net"),
        ("--take is for a checkpoint that --against names",),
    ),
    "no preset": (("python:wrong.py:x", "--against", "resnet55"), ("unknown preset",)),
    **TORCH,
}


# One whose process imports PyTorch, which takes longest.
@pytest.mark.parametrize("case", rest_in_zoo(REFUSALS, REFUSALS.keys() - TORCH | {"no program"}))
def test_a_wrong_target_is_one_line(rosetta: Rosetta, folder: Path, case: str) -> None:
    if case in TORCH:
        pytest.importorskip("torch")
    arguments, said = REFUSALS[case]
    rosetta("identify", *arguments).refused(*said)


@pytest.mark.parametrize(
    "attempt",
    [
        "open('written', 'w')",
        "open('/etc/hostname'); open('secret').read()",
        "__import__('os').system('true')",
        "__import__('subprocess').run(['true'])",
        "__import__('socket').create_connection(('127.0.0.1', 9))",
    ],
)
def test_a_program_of_others_can_do_nothing_else(tmp_path: Path, attempt: str) -> None:
    from shared.formats.containers import landlock

    if not landlock.version():
        pytest.skip("the system has no Landlock")
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "program.pt2").write_text("")
    code = (
        "import os, pathlib, socket, subprocess\n"
        "from shared.frameworks.readers import confine\n"
        f"os.chdir({str(tmp_path)!r})\n"
        f"confine(pathlib.Path({str(tmp_path / 'program.pt2')!r}))\n"
        f"try:\n    {attempt}\n"
        "except Exception as error:\n    print(type(error).__name__)\n"
        "else:\n    print('done')\n"
    )
    assert run_python(code) in ("FrameworkError", "PermissionError")
    assert sorted(os.listdir(tmp_path)) == ["program.pt2", "secret"]
