"""What the frameworks are told in the process that runs them, and where they compute."""

from __future__ import annotations

import contextlib
import sys
from typing import Any


def prepare(*, on_cpu: bool) -> None:
    """Ask the frameworks that are loaded for full precision: no TF32, which keeps 10 bits of a
    float32's 23 on a GPU. JAX is asked through its environment, which also hides accelerators
    (`Framework.on_cpu`); those that a plug-in adds to TensorFlow are hidden here.
    """
    if "torch" in sys.modules:
        import torch

        torch.backends.fp32_precision = "ieee"  # type: ignore[attr-defined]
        torch.set_float32_matmul_precision("highest")
    if "tensorflow" in sys.modules:
        import tensorflow

        tensorflow.config.experimental.enable_tensor_float_32_execution(False)
        if on_cpu:
            with contextlib.suppress(RuntimeError):  # it has computed already
                tensorflow.config.set_visible_devices([], "GPU")


def device() -> str:
    """Where the framework of this process computes, in its own word: cpu, cuda, gpu, mps …"""
    place: Any = "cpu"
    if "keras" in sys.modules:
        import keras

        place = keras.ops.zeros(()).device
    elif "jax" in sys.modules:
        import jax

        place = jax.numpy.zeros(()).device
    elif "torch" in sys.modules:
        import torch

        place = torch.zeros(()).device
    for word in ("type", "platform"):  # of PyTorch's devices, and of JAX'
        if hasattr(place, word):
            return str(getattr(place, word)).lower()
    return place.lower().rpartition("device:")[2].partition(":")[0]  # …/device:CPU:0
