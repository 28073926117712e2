"""What the tests share: every preset's name, probe inputs, reference traces and the one error
measure.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

import numpy as np

from shared import ResNetSpec, Trace, get_spec, list_presets, miniature, probe_images, probe_weights
from shared.architecture.spec import InitSpec
from shared.frameworks import reference
from shared.weights.canonical import Weights

PRESETS = list_presets()
FAMILIES = sorted({name.partition("/")[0] for name in PRESETS})

# SAME padding differs from symmetric on even sides, and agrees on odd ones. Average anti-aliasing
# takes few odd sides: that of the stem's pool alone may be odd.
SIZE = (32, 33)
BATCH = 2


def function_of(spec: ResNetSpec) -> ResNetSpec:
    """`spec` without what does not change the function it computes: equal nets become
    equal specs.
    """
    return spec.replace(name="any", image_size=224, init=InitSpec())


# One preset of every function that a miniature computes.
DISTINCT = [*{function_of(miniature(get_spec(name))): name for name in reversed(PRESETS)}.values()]


def small(name: str, depths: tuple[int, ...] = (1, 1), **changes: Any) -> ResNetSpec:
    """A miniature with these depths, by default two stages of a block each."""
    return miniature(get_spec(name)).replace(depths=depths, **changes)


def loaded(package: ModuleType, spec: ResNetSpec, dtype: str = "float64") -> Any:
    """A framework's model with its probe weights."""
    model = package.build(spec, dtype=dtype)
    package.load_weights(model, probe_weights(spec, dtype=dtype))
    return model


def images_for(
    spec: ResNetSpec, size: tuple[int, int] = SIZE, dtype: str = "float64"
) -> np.ndarray:
    """Random images [batch, height, width, channels] that fit `spec`."""
    return probe_images((BATCH, *size, spec.in_channels), dtype=dtype)


def reference_trace(spec: ResNetSpec, size: tuple[int, int] = SIZE) -> Trace:
    """The float64 reference trace of `spec` under probe weights; nets that are one function are run
    once.
    """
    return _reference_trace(function_of(spec), size)


@functools.cache
def _reference_trace(spec: ResNetSpec, size: tuple[int, int]) -> Trace:
    return reference.trace(loaded(reference, spec), images_for(spec, size))


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest absolute difference over the largest absolute value of `expected`; infinite for
    another shape.
    """
    if found.shape != expected.shape:
        return float("inf")
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def same_weights(found: Weights, expected: Weights) -> bool:
    """The same tensors bit for bit, in whatever order."""
    return found.keys() == expected.keys() and all(
        found[name].dtype == array.dtype
        and found[name].shape == array.shape
        and found[name].tobytes() == array.tobytes()
        for name, array in expected.items()
    )


def worst_layer(found: Trace, expected: Trace) -> tuple[float, str]:
    """The largest `relative_error` of any array in the two traces, and its name."""
    assert sorted(found.names) == sorted(expected.names)
    return max((relative_error(found[name], expected[name]), name) for name in expected.names)
