"""The residual units of the V2 paper's two ablations (arXiv:1603.05027, sections 3 and 4).

Table 1 changes how shortcut and branch are joined, table 2 the order of norm, activation and
convolution. They live apart so that `model.py` shows the units that people use.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops as kops
from keras.saving import register_keras_serializable

from resnet_keras.dropout import Dropout
from resnet_keras.init import Scope
from resnet_keras.layers import Apply, Conv2D, Norm2D, ReLU, Shortcut
from shared.architecture import plan as p
from shared.architecture.ops import Shape


@register_keras_serializable(package="resnet_rosetta")
class Merge(keras.layers.Layer):
    """Shortcut and branch made one: x + F, a x + b F, (1-g) x + g F, or (1-g) x + F.

    Takes [shortcut, branch] or [shortcut, branch, gate logits].
    """

    def __init__(self, mode: str, scales: tuple[float, float] = (1.0, 1.0), **kwargs: Any):
        super().__init__(**kwargs)
        self.mode = mode
        self.scales = tuple(scales)

    def call(self, inputs: list[Any]) -> Any:
        shortcut, branch, *gate_logits = inputs
        if gate_logits:
            gate = kops.sigmoid(gate_logits[0])
            return (1 - gate) * shortcut + (
                gate * branch if self.mode == "exclusive_gate" else branch
            )
        if self.mode == "scale":
            return self.scales[0] * shortcut + self.scales[1] * branch
        return shortcut + branch

    def compute_output_shape(self, input_shape: list[Shape]) -> Shape:
        return input_shape[1]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "mode": self.mode, "scales": self.scales}


def AblationBlock(plan: p.Block, scope: Scope) -> Apply:
    """Any order of the unit's layers with any way to join it to its shortcut."""
    order, last = plan.order, len(plan.convs)

    def conv(k: int) -> Apply:
        return Conv2D(plan.convs[k - 1], scope / f"conv{k}")

    def norm(k: int) -> Apply:
        return Norm2D(plan.norm(k), scope / f"norm{k}")

    def relu(k: int) -> Apply:
        return ReLU(scope / f"relu{k}")

    def inner_dropout(x: Any) -> Any:
        return Dropout(plan.dropout, scope / "inner_dropout")(x) if plan.dropout else x

    def apply(x: Any) -> Any:
        raw = x
        if plan.preact:
            x = relu(0)(norm(1)(x) if order == "full_pre" else x)

        source = x if plan.shortcut_preact else raw
        shortcut = Shortcut(plan.shortcut, scope / "shortcut")(source)
        if plan.shortcut_dropout is not None:
            shortcut = Dropout(plan.shortcut_dropout, scope / "dropout")(shortcut)
        gate = [Conv2D(plan.gate, scope / "gate")(source)] if plan.gate is not None else []

        for k in range(1, last + 1):
            if order == "full_pre":
                if k > 1:
                    x = relu(k)(norm(k)(x))
                x = inner_dropout(x) if k == last else x
                x = conv(k)(x)
                continue
            x = inner_dropout(x) if k == last else x
            x = conv(k)(x)
            if k < last or order != "norm_after_add":
                x = norm(k)(x)
            if k < last or order == "act_before_add":
                x = relu(k)(x)

        activated = order in ("post", "norm_after_add")
        at = scope / "join" if activated else scope
        x = Merge(plan.join.mode, plan.join.scales, name=at.name, dtype=at.dtype)(
            [shortcut, x, *gate]
        )
        if order == "norm_after_add":
            x = norm(last)(x)
        return ReLU(scope)(x) if activated else x

    return apply
