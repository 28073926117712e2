"""The residual units of the V2 paper's two ablations (arXiv:1603.05027, sections 3 and 4).

Table 1 changes how shortcut and branch are joined, table 2 the order of norm, activation and
convolution. They live apart so that `model.py` shows the units that people use.
"""

from __future__ import annotations

import jax
from flax import nnx
from jax.nn import relu

from resnet_flax.layers import Conv, Dropout, Dtype, Identity, Norm, Shortcut
from shared.architecture import ops
from shared.architecture import plan as p


class Merge(nnx.Module):
    """Shortcut and branch made one: x + F, a x + b F, (1-g) x + g F, or (1-g) x + F."""

    def __init__(self, op: ops.Merge):
        self.op = op

    def __call__(
        self, shortcut: jax.Array, branch: jax.Array, gate_logits: jax.Array | None
    ) -> jax.Array:
        if gate_logits is not None:
            gate = jax.nn.sigmoid(gate_logits)
            return (1 - gate) * shortcut + (
                gate * branch if self.op.mode == "exclusive_gate" else branch
            )
        if self.op.mode == "scale":
            return self.op.scales[0] * shortcut + self.op.scales[1] * branch
        return shortcut + branch


class AblationBlock(nnx.Module):
    """Any order of the unit's layers with any way to join it to its shortcut."""

    def __init__(self, plan: p.Block, *, rngs: nnx.Rngs, dtype: Dtype):
        self.plan = plan
        self.shortcut = Shortcut(plan.shortcut, rngs=rngs, dtype=dtype)
        self.dropout = Dropout(plan.shortcut_dropout, rngs=rngs) if plan.shortcut_dropout else None
        self.inner_dropout = Dropout(plan.dropout, rngs=rngs) if plan.dropout else Identity()
        self.gate = Conv(plan.gate, rngs=rngs, dtype=dtype) if plan.gate else None
        for k, (conv, norm) in enumerate(zip(plan.convs, plan.norms, strict=True), start=1):
            setattr(self, f"conv{k}", Conv(conv, rngs=rngs, dtype=dtype))
            setattr(self, f"norm{k}", Norm(norm, rngs=rngs, dtype=dtype) if norm else None)
        self.join = Merge(plan.join)

    def _layer(self, name: str, k: int) -> nnx.Module:
        return getattr(self, f"{name}{k}")

    def __call__(self, x: jax.Array) -> jax.Array:
        order, last = self.plan.order, len(self.plan.convs)
        raw = x
        if self.plan.preact:
            x = relu(self._layer("norm", 1)(x) if order == "full_pre" else x)

        source = x if self.plan.shortcut_preact else raw
        shortcut = self.shortcut(source)
        if self.dropout is not None:
            shortcut = self.dropout(shortcut)
        gate = self.gate(source) if self.gate is not None else None

        for k in range(1, last + 1):
            if order == "full_pre":
                if k > 1:
                    x = relu(self._layer("norm", k)(x))
                x = self.inner_dropout(x) if k == last else x
                x = self._layer("conv", k)(x)
                continue
            x = self.inner_dropout(x) if k == last else x
            x = self._layer("conv", k)(x)
            if k < last or order != "norm_after_add":
                x = self._layer("norm", k)(x)
            if k < last or order == "act_before_add":
                x = relu(x)

        x = self.join(shortcut, x, gate)
        if order == "norm_after_add":
            x = self._layer("norm", last)(x)
        return relu(x) if order in ("post", "norm_after_add") else x
