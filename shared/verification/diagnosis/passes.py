"""Everything that a port computes, under the keys of a trace, each when it is asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from shared.architecture.spec import ResNetSpec
from shared.errors import SpecError
from shared.verification.diagnosis.execution import Run, in_training
from shared.verification.hypotheses.hypothesis import Array, Port, TrainerChange
from shared.verification.recording import (
    EVAL,
    GRADIENTS,
    PREFIXES,
    STEP,
    TRAIN,
    iter_steps,
    record_gradients,
)


class TrainerKit(NamedTuple):
    """What trains a reference network: its class, its model and the loader of its weights."""

    trainer: type
    model: Callable[[ResNetSpec, dict[str, Array]], Any]
    load: Callable[[Any, Mapping[str, Array]], None]


def check_of(key: str) -> str:
    """The check that a key of a trace belongs to."""
    return next(check for check, prefixes in PREFIXES.items() if key.startswith(prefixes))


class Passes:
    """The passes of a port: evaluation, training, gradients, steps.

    Args:
        port: weights and images of one dtype.
        base: passes of which nothing is computed again that is the same here.
        kit: what trains; without one there are no gradients and steps.
        labels: class numbers [N].
    """

    def __init__(
        self,
        port: Port,
        base: Passes | None = None,
        kit: TrainerKit | None = None,
        labels: Array | None = None,
    ):
        self.port = port
        self.base = base
        self.kit: TrainerKit | None = kit or (base.kit if base else None)
        self.labels: Array | None = (
            labels if labels is not None else (base.labels if base else None)
        )
        self._runs: dict[str, Run] = {}
        self._recorded: dict[str, Array] = {}
        self._steps: Iterator[dict[str, Array]] | None = None

    def run(self, check: str) -> Run:
        """The forward pass in evaluation or in training."""
        if check not in self._runs:
            port = self.port if check == EVAL else in_training(self.port)
            self._runs[check] = Run(port, self.base.run(check) if self.base else None)
        return self._runs[check]

    def get(self, key: str) -> Array:
        """What the port computes under a key. Raises `SpecError` for an impossible network, and
        `KeyError` for a key that it does not have.
        """
        check = check_of(key)
        rest = key.partition("/")[2]
        if check == EVAL:
            return self.run(EVAL).layer(rest)
        if check == TRAIN:
            run = self.run(TRAIN)
            return run.statistic(rest) if key.startswith("stats/") else run.layer(rest)
        while key not in self._recorded and self._record(check):
            pass
        return np.asarray(self._recorded[key])

    def touches(self, key: str) -> bool:
        """Whether what is under a key may be another than the base's."""
        check, rest = check_of(key), key.partition("/")[2]
        if self.base is None or check in (GRADIENTS, STEP):
            return True
        run = self.run(check)
        if key.startswith("stats/"):
            name = rest.rpartition(".")[0]
            other = self.base.run(check).nodes.get(name)
            return name not in run.clean or other is None or run.nodes[name].op != other.op
        return run.touches(rest)

    def _record(self, check: str) -> bool:
        """Gradients, or one more step; whether there was any."""
        if check == GRADIENTS:
            if "loss" in self._recorded:
                return False
            port = self.port
            arrays = record_gradients(
                self._trainer(), port.images, self._labels, port.plan, port.training
            )
            self._recorded |= arrays
            return True
        if self._steps is None:
            port = self.port
            self._steps = iter_steps(self._trainer(), port.images, self._labels, port.plan)
        arrays = next(self._steps, {})
        self._recorded |= arrays
        return bool(arrays)

    @property
    def _labels(self) -> Array:
        return np.zeros(len(self.port.images), int) if self.labels is None else self.labels

    def _trainer(self) -> Any:
        port, kit = self.port, self.kit
        if kit is None:
            raise SpecError("gradients and steps need what trains the reference")
        made = kit.trainer
        changes = port.trainers
        if port.training_masks:
            changes = (*changes, _masked(port.training_masks, port.spec))
        for change in changes:
            made = change(made, kit.load)
        spec = port.training_spec or port.spec
        return made(kit.model(spec, dict(port.weights)), port.training)


def _masked(change: Callable[..., Mapping[str, Array]], spec: ResNetSpec) -> TrainerChange:
    """A trainer that gets other masks of dropout."""

    def make(trainer: type, load: Any) -> type:
        class Wrong(trainer):
            def gradients(self, images, labels, masks=None):
                return super().gradients(images, labels, change(masks or {}, spec))

        return Wrong

    return make


def one_image(port: Port, index: int) -> Port:
    return dataclasses.replace(port, images=port.images[index : index + 1])
