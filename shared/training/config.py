"""`Training`: what a training step does, with one meaning in every framework; and what it is fed.

The meaning is PyTorch's, of `torch.optim.SGD`, `Adam` and `AdamW` and `F.cross_entropy`:

* SGD: v = momentum v + g, w = w - lr v. The learning rate is not part of the velocity, so a change
  of it takes effect at once. Nesterov: w = w - lr (g + momentum v).
* Coupled weight decay adds weight_decay w to the gradient, before momentum or Adam's averages (L2
  regularisation, as in the ResNet papers). AdamW's is decoupled: w = w - lr weight_decay w, before
  the step.
* Adam: w = w - lr m' / (sqrt(v') + eps) with the bias-corrected averages m' and v'; eps is outside
  the root.
* The loss is the mean over the batch. Label smoothing s: the target is (1 - s) onehot + s /
  classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np

from shared.architecture.fields import CheckedDataclass, require
from shared.architecture.ops import Dropout, Shape
from shared.architecture.plan import Plan
from shared.errors import SpecError, nearest
from shared.weights.random import named_rng

BUFFER, FIRST, SECOND = "momentum_buffer", "exp_avg", "exp_avg_sq"  # PyTorch's names


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig(CheckedDataclass):
    """SGD, Adam or AdamW. Raises `SpecError` naming the field.

    >>> OptimizerConfig(kind="adamw", weight_decay=0.05).slots
    ('exp_avg', 'exp_avg_sq')
    """

    label: ClassVar[str] = "optimizer"
    prefix: ClassVar[str] = "optimizer."

    kind: Literal["sgd", "adam", "adamw"] = "sgd"
    momentum: float = 0.9  # of SGD
    nesterov: bool = False
    betas: tuple[float, float] = (0.9, 0.999)  # of Adam and AdamW
    eps: float = 1e-8
    weight_decay: float = 1e-4
    decay_norms: bool = True  # on norms and biases, too

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in (
            ("momentum", self.momentum),
            *((f"betas[{i}]", b) for i, b in enumerate(self.betas)),
        ):
            require(0.0 <= value < 1.0, f"optimizer.{name}", value, "must be in [0, 1)")
        require(self.eps > 0, "optimizer.eps", self.eps, "must be positive")
        require(
            self.weight_decay >= 0,
            "optimizer.weight_decay",
            self.weight_decay,
            "must not be negative",
        )
        require(
            not self.nesterov or (self.kind == "sgd" and self.momentum > 0),
            "optimizer.nesterov",
            True,
            "needs kind=sgd and momentum",
        )

    @property
    def slots(self) -> tuple[str, ...]:
        """What the optimizer keeps for every parameter, by PyTorch's names."""
        if self.kind == "sgd":
            return (BUFFER,) if self.momentum else ()
        return (FIRST, SECOND)

    def decay_of(self, tensor: str, ndim: int) -> float:
        """The weight decay of a canonical tensor with so many dimensions."""
        return self.weight_decay if self.decay_norms or ndim > 1 else 0.0


@dataclass(frozen=True, kw_only=True)
class Training(CheckedDataclass):
    """Optimizer, loss, and what is trained. Raises `SpecError` naming the field.

    >>> training = Training(optimizer=OptimizerConfig(momentum=0.9), label_smoothing=0.1)
    >>> training.replace({"optimizer.nesterov": True}).optimizer.nesterov
    True
    """

    label: ClassVar[str] = "training"

    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    label_smoothing: float = 0.0
    # Norms use and keep their running statistics, and their gamma and beta are not trained.
    frozen_norms: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            0.0 <= self.label_smoothing < 1.0,
            "label_smoothing",
            self.label_smoothing,
            "must be in [0, 1)",
        )

    def trainable(self, plan: Plan) -> tuple[str, ...]:
        """The canonical tensors that are trained, in the plan's order."""
        names = [
            name for name in plan.tensors if not name.endswith(("running_mean", "running_var"))
        ]
        if self.frozen_norms:
            norms = norm_layers(plan)
            names = [name for name in names if name.rpartition(".")[0] not in norms]
        return tuple(names)

    def replace(self, changes: Mapping[str, Any]) -> Training:
        """A copy with fields changed: `label_smoothing`, or `optimizer.kind` for one of the
        optimizer's.
        """
        data = self.to_dict()
        for key, value in changes.items():
            group, _, name = key.rpartition(".")
            fields = data if not group else data["optimizer"] if group == "optimizer" else {}
            if name not in fields:
                known = [f for f in data if f != "optimizer"] + [
                    f"optimizer.{f}" for f in data["optimizer"]
                ]
                raise SpecError(
                    f"training has no field {key!r}{nearest(key, known)}; it has {', '.join(known)}"
                )
            fields[name] = value
        return self.from_dict(data)


# What verification trains with: every term of the step is there.
PROBE = Training(optimizer=OptimizerConfig(momentum=0.9, weight_decay=5e-4), label_smoothing=0.1)

STEPS = 10
# pixels a side at most: ten steps take three times as long at 224, where the gradients are compared
STEP_SIZE = 128


def learning_rate(step: int) -> float:
    """The probe's learning rate at step 1, 2, …: another one at every step, up and down.

    So small that a step moves no network far: a deep one that learns fast from a batch of two is
    chaotic, and multiplies rounding by a hundred at every step. What a step does is seen to ten
    digits all the same.
    """
    return 2e-6 * (1 + 3 * step % 7)


def norm_layers(plan: Plan) -> frozenset[str]:
    """The canonical names of all norms."""
    return frozenset(row.name for row in plan.layers if row.op in ("batch_norm", "group_norm"))


def num_outputs(plan: Plan) -> int:
    """Channels of what the network returns: its classes, where it has a classifier."""
    return plan.output[-1]


def probe_labels(batch: int, classes: int, seed: int) -> np.ndarray:
    """Random class numbers, int64 [batch]."""
    return named_rng("labels", seed).integers(0, classes, batch)


def step_batch(
    images: np.ndarray, labels: np.ndarray, step: int, classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """The batch of step 1, 2, …: another one at every step, made of one batch whatever it shows.

    Images [batch, height, width, channels] move `step` pixels to the right, what leaves comes back
    on the left, and lose what is beyond `STEP_SIZE` pixels; labels count up.
    """
    return np.roll(images, step, axis=2)[:, :STEP_SIZE, :STEP_SIZE], (labels + step) % classes


def dropout_masks(plan: Plan, batch: int, step: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Which values each dropout of the network keeps at a step of the probe: bool [batch, height,
    width, channels] by layer.

    Made from the layer's name, so that all frameworks drop the same ones. `plan` is that of the
    images' size.
    """
    return {
        name: named_rng(f"{name}.mask.{step}", seed).random(shape) >= rate
        for name, rate, shape in _dropouts(plan, batch)
    }


def training_masks(plan: Plan, batch: int, step: int, seed: int) -> dict[str, np.ndarray]:
    """`dropout_masks` of a step of a recipe: other values, drawn in a fraction of the time.

    A rate of 1/2 takes a bit a value, any other 32 bits: it is met to 2^-33.
    """
    masks = {}
    for name, rate, shape in _dropouts(plan, batch):
        rng, size = named_rng(f"{name}.training_mask.{step}", seed), math.prod(shape)
        bits = 1 if rate == 0.5 else 32
        # The generator's own words, which NumPy never changes, in one order of bytes.
        raw = rng.bit_generator.random_raw(-(-size * bits // 64)).astype("<u8", copy=False)
        if bits == 1:
            kept = np.unpackbits(raw.view(np.uint8), count=size).view(bool)
        else:
            kept = raw.view("<u4")[:size] >= round(rate * 2**32)
        masks[name] = kept.reshape(shape)
    return masks


def _dropouts(plan: Plan, batch: int) -> Iterator[tuple[str, float, Shape]]:
    """Name, rate, and shape of a mask, of each dropout."""
    shapes = {row.name: row.output for row in plan.layers}
    for node in plan.nodes():
        if isinstance(node.op, Dropout):
            yield node.name, node.op.rate, (batch, *shapes[node.name.rpartition(".")[0]])
