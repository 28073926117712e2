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
        self.order = plan.order
        self.preact, self.shortcut_preact = plan.preact, plan.shortcut_preact
        self.shortcut = Shortcut(plan.shortcut, rngs=rngs, dtype=dtype)
        self.dropout = Dropout(plan.shortcut_dropout, rngs=rngs) if plan.shortcut_dropout else None
        self.inner_dropout = Dropout(plan.dropout, rngs=rngs) if plan.dropout else Identity()
        self.gate = Conv(plan.gate, rngs=rngs, dtype=dtype) if plan.gate else None
        # Without: the stem has activated already.
        first = plan.norms[0]
        self.norm1 = Norm(first, rngs=rngs, dtype=dtype) if first else Identity()
        self.conv1 = Conv(plan.conv1, rngs=rngs, dtype=dtype)
        self.norm2 = Norm(plan.norm2, rngs=rngs, dtype=dtype)
        self.conv2 = Conv(plan.conv2, rngs=rngs, dtype=dtype)
        bottleneck = len(plan.convs) == 3
        self.norm3 = Norm(plan.norm3, rngs=rngs, dtype=dtype) if bottleneck else Identity()
        self.conv3 = Conv(plan.conv3, rngs=rngs, dtype=dtype) if bottleneck else None
        self.join = Merge(plan.join)

    def __call__(self, x: jax.Array) -> jax.Array:
        raw = x
        if self.preact:
            x = relu(self.norm1(x) if self.order == "full_pre" else x)

        source = x if self.shortcut_preact else raw
        shortcut = self.shortcut(source)
        if self.dropout is not None:
            shortcut = self.dropout(shortcut)
        gate = self.gate(source) if self.gate is not None else None

        if self.order == "full_pre":
            x = self.conv1(x)
            x = self.conv2(self.inner_dropout(relu(self.norm2(x))))
            if self.conv3 is not None:
                x = self.conv3(relu(self.norm3(x)))
            return self.join(shortcut, x, gate)

        x = relu(self.norm1(self.conv1(x)))
        if self.conv3 is None:
            last_norm, x = self.norm2, self.conv2(self.inner_dropout(x))
        else:
            x = relu(self.norm2(self.conv2(x)))
            last_norm, x = self.norm3, self.conv3(x)
        if self.order == "norm_after_add":
            return relu(last_norm(self.join(shortcut, x, gate)))
        x = last_norm(x)
        if self.order == "act_before_add":
            x = relu(x)
        x = self.join(shortcut, x, gate)
        return relu(x) if self.order == "post" else x
