"""The plan executed by plain NumPy: slow, short and obviously right.

When two frameworks disagree, this shows which of them is wrong. It reads the plan's graph and its
numbers, and computes everything else itself: padding, the number of windows and the stored variance
are rules of its own (`windows`, `forward`), which the three renderings do not use. Arrays are NHWC,
in the dtype of the weights (float64, to be the truth). `forward` has every operator, `backward` its
gradient; `shared.frameworks.reference` makes traces and a `Trainer` of them.
"""

from __future__ import annotations

from collections.abc import Mapping

from shared.architecture.plan import make_plan
from shared.architecture.spec import ResNetSpec
from shared.reference.forward import Array
from shared.weights.canonical import Weights, cast_exactly, check_weights
from shared.weights.initial import initial_weights


class Reference:
    """A network of NumPy arrays: a spec and its canonical weights."""

    def __init__(self, spec: ResNetSpec, weights: Weights):
        self.spec = spec
        self.weights = weights


def build(spec: ResNetSpec, *, seed: int = 0, dtype: str = "float64") -> Reference:
    """A network with `initial_weights`, those that the other frameworks start with."""
    return Reference(spec, initial_weights(spec, seed, dtype))


def load_weights(model: Reference, weights: Mapping[str, Array]) -> None:
    """Replace all weights. Raises `CheckpointError`, and then leaves the model as it was."""
    plan = make_plan(model.spec)
    check_weights(plan, weights)
    dtype = next(iter(model.weights.values())).dtype
    model.weights = cast_exactly({name: weights[name] for name in plan.tensors}, dtype)


def export_weights(model: Reference) -> Weights:
    return {name: array.copy() for name, array in model.weights.items()}
