"""`Hypothesis`: one named mistake of a port, as a change of what the port computes with.

`Port` holds everything that such a change may touch. The list of all hypotheses for a network is
`shared.verification.hypotheses.listing`; tests plant them, and `diagnose` looks for them.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from shared.architecture.ops import Shape
from shared.architecture.plan import Plan, make_plan
from shared.architecture.spec import ResNetSpec
from shared.errors import SpecError
from shared.training.config import PROBE, Training

Array = np.ndarray
Kind = Literal["spec", "weights", "surroundings", "mode", "precision", "training"]
# A change of the class that trains: (trainer class, loader of weights) -> trainer class. The loader
# is the package's `load_weights(model, weights)`.
TrainerChange = Callable[[type, Callable[[Any, Mapping[str, Array]], None]], type]


@dataclass(frozen=True)
class Port:
    """What a port computes with. Weights are canonical, images NHWC as the network gets them."""

    spec: ResNetSpec
    weights: Mapping[str, Array]
    images: Array
    batch_statistics: bool = False  # in evaluation
    dropout: Callable[[Plan, int], Mapping[str, Array]] | None = None  # masks in evaluation
    precision: str = "exact"
    # Node -> what it computes instead of its operator, called as those of the reference are.
    altered: Mapping[str, Callable[..., Array]] = field(default_factory=dict)
    outputs: tuple[Callable[[Array], Array], ...] = ()  # what is done to the network's output
    training_spec: ResNetSpec | None = None  # of the training branch, where it is another
    training: Training = PROBE
    # What is made of the masks of dropout in training: (masks, spec) -> masks.
    training_masks: Callable[[Mapping[str, Array], ResNetSpec], Mapping[str, Array]] | None = None
    trainers: tuple[TrainerChange, ...] = ()

    @property
    def plan(self) -> Plan:
        """For the images' size. Raises `SpecError` where the network cannot take them."""
        return make_plan(self.spec, (self.images.shape[1], self.images.shape[2]))

    def returned(self, output: Array) -> Array:
        """The network's output as the port returns it."""
        for change in self.outputs:
            output = change(output)
        return output


@dataclass(frozen=True)
class Hypothesis:
    """A mistake with a name. `set` and `training_set` say it as `--set` and `--training` do.

    `rank` orders the search: 0 is likely and changes the whole network, larger numbers are for
    single tensors, then pairs of them. `whole_batch` says that one image does not show it.
    """

    kind: Kind
    name: str
    what: str  # a sentence
    change: Callable[[Port], Port | None]
    set: Mapping[str, Any] = field(default_factory=dict)
    training_set: Mapping[str, Any] = field(default_factory=dict)
    rank: int = 1
    whole_batch: bool = False
    shows_in: Literal["everything", "evaluation", "training"] = "everything"

    def __call__(self, port: Port) -> Port | None:
        """The port with the mistake, or None where it is not possible there."""
        try:
            return self.change(port)
        except SpecError:
            return None

    @property
    def settings(self) -> tuple[str, ...]:
        """Each as `--set` takes it."""
        return tuple(setting(key, value) for key, value in self.set.items())


def setting(key: str, value: Any) -> str:
    """`key=value` as `shared.architecture.spec.parse_setting` reads it."""
    if isinstance(value, str):
        return f"{key}={value}"
    text = json.dumps(value)
    if isinstance(value, (tuple, list)) and value and not isinstance(value[0], (tuple, list)):
        text = text[1:-1].replace(" ", "")
    return f"{key}={text}"


def respecced(port: Port, changes: Mapping[str, Any]) -> Port | None:
    """The port as another network with the same weights.

    Tensors that the other network has no place for are left out. Those that it wants beside are as
    if nothing had been loaded: norms and projections are the identity; so are norms of another
    width. None where a kernel has another shape, or nothing is known of it.
    """
    spec = port.spec.replace(**changes)
    if spec == port.spec:
        return None
    weights = weights_for(port.weights, make_plan(spec).tensors)
    return None if weights is None else dataclasses.replace(port, spec=spec, weights=weights)


def weights_for(
    weights: Mapping[str, Array], tensors: Mapping[str, Shape]
) -> dict[str, Array] | None:
    """See `respecced`."""
    dtype = next(iter(weights.values())).dtype
    found = {}
    for name, shape in tensors.items():
        array = weights.get(name)
        if array is None or (array.shape != shape and len(shape) == 1):
            array = unloaded(name, shape, dtype)
        if array is None or array.shape != shape:
            return None
        found[name] = array
    return found


def unloaded(name: str, shape: Shape, dtype: Any) -> Array | None:
    """A tensor as a port has it that never loaded it; None for a kernel of more than one pixel."""
    leaf = name.rpartition(".")[2]
    if len(shape) == 4:
        return np.eye(shape[0], shape[1], dtype=dtype)[:, :, None, None] if shape[2] == 1 else None
    if len(shape) == 2:
        return np.zeros(shape, dtype)
    ones = leaf == "running_var" or leaf == "weight"
    return np.ones(shape, dtype) if ones else np.zeros(shape, dtype)


def reweighted(port: Port, changed: Mapping[str, Array]) -> Port | None:
    """The port with other values of some tensors; None where they are the same values."""
    if all(array is port.weights[name] for name, array in changed.items()) or all(
        np.array_equal(array, port.weights[name]) for name, array in changed.items()
    ):
        return None
    contiguous = {name: np.ascontiguousarray(array) for name, array in changed.items()}
    return dataclasses.replace(port, weights={**port.weights, **contiguous})
