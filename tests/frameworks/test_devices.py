"""Where the frameworks compute, and how precisely: environments of the processes, and settings in
frameworks that are made up.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from shared import Trace, get_spec, miniature
from shared.frameworks import workers
from shared.frameworks.devices import device, prepare
from shared.frameworks.inputs import Inputs
from shared.frameworks.registry import FRAMEWORKS
from shared.frameworks.verify import take_trace
from shared.frameworks.workers import TraceWorker, run_events
from shared.verification import trace
from tests.zoo import rest_in_zoo

HIDDEN = {
    "CUDA_VISIBLE_DEVICES": "",
    "HIP_VISIBLE_DEVICES": "-1",
    "ROCR_VISIBLE_DEVICES": "-1",
    "JAX_PLATFORMS": "cpu",
    "KERAS_TORCH_DEVICE": "cpu",
}


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """The environments of processes that would be started."""
    found: list[dict[str, str]] = []

    def refuse(self: object, name: str, arguments: object, environment: dict[str, str]) -> None:
        found.append(environment)
        raise InterruptedError

    monkeypatch.setattr(workers.Process, "__init__", refuse)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    for name in HIDDEN:
        monkeypatch.setenv(name, "0")  # the user's own choice
    return found


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_traces_are_taken_on_the_cpu(started: list[dict[str, str]], name: str) -> None:
    with pytest.raises(InterruptedError):
        TraceWorker(name)
    assert HIDDEN.items() <= started[0].items()
    assert FRAMEWORKS[name].environment.items() <= started[0].items()


@pytest.mark.parametrize("name", ["torch", "keras:torch", "flax"])
@pytest.mark.parametrize("task", ["evaluate", "train"])
def test_training_alone_is_where_the_framework_puts_it(
    started: list[dict[str, str]], name: str, task: str
) -> None:
    with pytest.raises(InterruptedError):
        list(run_events(name, {"task": task}))
    assert (HIDDEN.keys() & started[0].keys() == HIDDEN.keys()) == (task == "evaluate")
    assert FRAMEWORKS[name].environment.items() <= started[0].items()


class Settings(SimpleNamespace):
    """A module that takes every setting."""


def made_up(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """PyTorch and TensorFlow as `prepare` finds them; what they are asked for."""
    asked: dict[str, Any] = {}
    backends = Settings(fp32_precision="none")
    torch = Settings(
        backends=backends, set_float32_matmul_precision=lambda value: asked.update(matmul=value)
    )
    experimental = Settings(enable_tensor_float_32_execution=lambda value: asked.update(tf32=value))
    config = Settings(
        experimental=experimental,
        set_visible_devices=lambda devices, kind: asked.update(visible=(devices, kind)),
    )
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "tensorflow", Settings(config=config))
    asked["backends"] = backends
    return asked


@pytest.mark.parametrize("on_cpu", [True, False])
def test_full_precision_is_asked_for_wherever_a_framework_runs(
    monkeypatch: pytest.MonkeyPatch, on_cpu: bool
) -> None:
    asked = made_up(monkeypatch)
    prepare(on_cpu=on_cpu)
    assert asked["backends"].fp32_precision == "ieee"
    assert (asked["matmul"], asked["tf32"]) == ("highest", False)
    assert asked.get("visible") == (([], "GPU") if on_cpu else None)


@pytest.mark.parametrize("task", ["train", "evaluate"])
def test_training_and_evaluation_ask_for_it(monkeypatch: pytest.MonkeyPatch, task: str) -> None:
    from shared.frameworks import train_worker

    said: list[bool] = []
    monkeypatch.setattr(train_worker, "answers", lambda: sys.stderr)
    monkeypatch.setattr(train_worker, "load_package", lambda framework: None)
    monkeypatch.setattr(train_worker, "prepare", lambda *, on_cpu: said.append(on_cpu))
    monkeypatch.setattr(train_worker, task, lambda *arguments: None)
    monkeypatch.setattr(sys, "argv", ["train_worker", "reference"])
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(readline=lambda: f'{{"task": "{task}"}}'))
    train_worker.main()
    assert said == [task == "evaluate"]


@pytest.mark.parametrize(
    ("module", "place", "expected"),
    [
        ("keras", "/job:localhost/replica:0/task:0/device:CPU:0", "cpu"),
        ("keras", "/job:localhost/replica:0/task:0/device:GPU:0", "gpu"),
        ("keras", SimpleNamespace(type="mps"), "mps"),
        ("jax", SimpleNamespace(platform="METAL"), "metal"),
        ("torch", SimpleNamespace(type="cuda"), "cuda"),
        ("", None, "cpu"),
    ],
)
def test_the_device_is_what_the_framework_says(
    monkeypatch: pytest.MonkeyPatch, module: str, place: object, expected: str
) -> None:
    for name in ("keras", "jax", "torch"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    tensor = SimpleNamespace(zeros=lambda shape: SimpleNamespace(device=place))
    if module:
        found = SimpleNamespace(ops=tensor, numpy=tensor, zeros=tensor.zeros)
        monkeypatch.setitem(sys.modules, module, found)
    assert device() == expected


@pytest.mark.parametrize("name", rest_in_zoo(FRAMEWORKS, ("reference",)))
def test_a_trace_says_its_device(tmp_path: Path, name: str) -> None:
    if FRAMEWORKS[name].missing:
        pytest.skip(f"{name} is not installed")
    spec = miniature(get_spec("cifar/resnet20"))
    take_trace(spec, name, Inputs(image_size=(16, 16)), tmp_path / "t")
    assert Trace.load(tmp_path / "t").about["device"] == "cpu"


def test_a_package_of_another_distribution_says_its_version_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As TensorFlow does that was installed as tensorflow-cpu or tf-nightly."""
    module = SimpleNamespace(__version__="2.22.0-dev")
    monkeypatch.setitem(sys.modules, "made_up_flow", module)
    assert trace.version_of("made_up_flow") == "2.22.0-dev"
    monkeypatch.delattr(module, "__version__")
    assert trace.version_of("made_up_flow") == "unknown"
