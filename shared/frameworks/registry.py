"""The one door to the frameworks. Nothing here imports one until it is asked to.

A trace is taken in a process of its own (`Worker`): thread pools do not fight, Keras backends can
be mixed, and a framework that crashes takes nothing with it.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType

from shared.errors import CheckpointError, FrameworkError, RosettaError, SpecError, nearest


@dataclass(frozen=True)
class Framework:
    """A way to run the specification: its package, what must be installed, and its environment."""

    name: str
    package: str
    requires: tuple[str, ...]
    extra: str = ""  # of `pip install resnet-rosetta[...]`
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def missing(self) -> tuple[str, ...]:
        return tuple(name for name in self.requires if importlib.util.find_spec(name) is None)


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
KERAS_BACKENDS = ("tensorflow", "jax", "torch")  # in the order of preference


def get_framework(name: str) -> Framework:
    """The framework of a name; `keras` is Keras on the first backend that is installed.

    Raises `FrameworkError` when it is unknown, or not installed.
    """
    if name == "keras":
        chosen = [FRAMEWORKS[f"keras:{backend}"] for backend in KERAS_BACKENDS]
        framework = next((f for f in chosen if not f.missing), chosen[0])
    elif name in FRAMEWORKS:
        framework = FRAMEWORKS[name]
    else:
        known = ["keras", *FRAMEWORKS]
        raise FrameworkError(
            f"unknown framework {name!r}{nearest(name, known)}; known are {', '.join(known)}"
        )
    if framework.missing:
        raise FrameworkError(
            f"{name} needs {' and '.join(framework.missing)}, which "
            f"{'is' if len(framework.missing) == 1 else 'are'} "
            f"not installed; pip install 'resnet-rosetta[{framework.extra}]'"
        )
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


_ERRORS: dict[str, type[RosettaError]] = {
    "SpecError": SpecError,
    "CheckpointError": CheckpointError,
    "FrameworkError": FrameworkError,
}
