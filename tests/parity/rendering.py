"""The three renderings, imported when a test needs one. All of them run in one process here."""

from __future__ import annotations

import importlib
import os
from types import ModuleType

FRAMEWORKS = ("torch", "keras", "flax")


def package(framework: str) -> ModuleType:
    """The package of a framework, ready for float64."""
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    if framework == "flax":
        import jax

        jax.config.update("jax_enable_x64", True)
    return importlib.import_module(f"resnet_{framework}")
