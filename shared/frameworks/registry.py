"""The one door to the frameworks. Nothing here imports one until it is asked to.

A trace is taken in a process of its own (`shared.frameworks.workers`): thread pools do not fight,
Keras backends can be mixed, and a framework that crashes takes nothing with it.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType

from shared.errors import FrameworkError, nearest
from shared.frameworks.exported.kinds import KINDS
from shared.machine import missing_packages, require_packages
from shared.processes import ON_CPU


@dataclass(frozen=True)
class Framework:
    """A way to run the specification: its package, what must be installed, and its environment."""

    name: str
    package: str
    requires: tuple[str, ...]
    extra: str = ""  # of `pip install resnet-rosetta[...]`
    environment: Mapping[str, str] = field(default_factory=dict)
    kind: str = ""  # of file: what the framework exports is run, and not the framework

    @property
    def missing(self) -> tuple[str, ...]:
        return missing_packages(self.requires)

    @property
    def on_cpu(self) -> dict[str, str]:
        """The environment in which it sees no accelerator.

        What is compared runs on the CPU, on a machine with an accelerator, too: Apple's has no
        float64, and of several frameworks on one, the first takes all its memory.
        """
        return {**self.environment, **ON_CPU}


# Quiet, and the same numbers in every run. None of this touches the calling process.
_QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0", "GRPC_VERBOSITY": "ERROR"}
_X64 = {"JAX_ENABLE_X64": "1", "JAX_DEFAULT_MATMUL_PRECISION": "highest"}


def _keras(backend: str, *modules: str) -> Framework:
    environment = {"KERAS_BACKEND": backend, **_QUIET, **(_X64 if backend == "jax" else {})}
    return Framework(f"keras:{backend}", "resnet_keras", ("keras", *modules), "keras", environment)


FRAMEWORKS = {
    framework.name: framework
    for framework in (
        Framework("torch", "resnet_torch", ("torch",), "torch"),
        _keras("tensorflow", "tensorflow"),
        _keras("jax", "jax"),
        _keras("torch", "torch"),
        Framework("flax", "resnet_flax", ("flax", "jax"), "flax", {**_QUIET, **_X64}),
        Framework("reference", "shared.frameworks.reference", ()),
    )
}


def _exported(name: str, writer: str, kind: str) -> Framework:
    """What a framework exports, run by the file's own runtime."""
    own, file = FRAMEWORKS[writer], KINDS[kind]
    requires = tuple(dict.fromkeys((*own.requires, *file.requires, *file.needs.get(writer, ()))))
    extra = f"{own.extra},{file.extra}" if file.extra else own.extra
    return Framework(name, own.package, requires, extra, own.environment, kind)


EXPORTED = {
    framework.name: framework
    for framework in (
        _exported("torch:export", "torch", "torch-export"),
        _exported("torch:onnx", "torch", "onnx"),
        _exported("torch:openvino", "torch", "openvino"),
        _exported("keras:saved-model", "keras:tensorflow", "saved-model"),
        _exported("keras:onnx", "keras:tensorflow", "onnx"),
        _exported("keras:openvino", "keras:tensorflow", "openvino"),
        _exported("keras:litert", "keras:tensorflow", "litert"),
        _exported("flax:stablehlo", "flax", "stablehlo"),
    )
}
# By the kind alone: as the usual framework exports it.
USUAL = {framework.kind: name for name, framework in reversed(EXPORTED.items())}
KERAS_BACKENDS = ("tensorflow", "jax", "torch")  # in the order of preference


def get_framework(name: str, *, exported: bool = False) -> Framework:
    """The framework of a name; `keras` is Keras on the first backend that is installed.

    `exported`: what it exports will do, too, as `torch:onnx` or `onnx`. Raises `FrameworkError`
    when it is unknown, or not installed.
    """
    if exported and USUAL.get(name, name) in EXPORTED:
        framework = EXPORTED[USUAL.get(name, name)]
    elif name == "keras":
        chosen = [FRAMEWORKS[f"keras:{backend}"] for backend in KERAS_BACKENDS]
        framework = next((f for f in chosen if not f.missing), chosen[0])
    elif name in FRAMEWORKS:
        framework = FRAMEWORKS[name]
    else:
        known = ["keras", *FRAMEWORKS, *(EXPORTED if exported else ())]
        raise FrameworkError(
            f"unknown framework {name!r}{nearest(name, known)}; known are {', '.join(known)}"
        )
    require_packages(name, framework.extra, *framework.requires)
    return framework


def installed() -> list[str]:
    """The frameworks that are there, Keras once, and the reference, which always is."""
    found = []
    for name in ("torch", "keras", "flax", "reference"):
        with contextlib.suppress(FrameworkError):
            get_framework(name)
            found.append(name)
    return found


def load_package(framework: Framework) -> ModuleType:
    """Import the package that renders the specification in this framework, in this process."""
    try:
        return importlib.import_module(framework.package)
    except ImportError as error:
        raise FrameworkError(f"{framework.name} cannot be imported: {error}") from None
