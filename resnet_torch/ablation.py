"""The residual units of the V2 paper's two ablations (arXiv:1603.05027, sections 3 and 4).

Table 1 changes how shortcut and branch are joined, table 2 the order of norm, activation and
convolution. They live apart so that `model.py` shows the units that people use.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnet_torch.layers import Dropout, make_conv, make_norm, make_shortcut
from shared.architecture import ops
from shared.architecture import plan as p


class Merge(nn.Module):
    """Shortcut and branch made one: x + F, a x + b F, (1-g) x + g F, or (1-g) x + F."""

    def __init__(self, op: ops.Merge):
        super().__init__()
        self.op = op

    def forward(self, shortcut: Tensor, branch: Tensor, gate_logits: Tensor | None) -> Tensor:
        if gate_logits is not None:
            gate = torch.sigmoid(gate_logits)
            return (1 - gate) * shortcut + (
                gate * branch if self.op.mode == "exclusive_gate" else branch
            )
        if self.op.mode == "scale":
            return self.op.scales[0] * shortcut + self.op.scales[1] * branch
        return shortcut + branch


class AblationBlock(nn.Module):
    """Any order of the unit's layers with any way to join it to its shortcut."""

    def __init__(self, plan: p.Block):
        super().__init__()
        self.order = plan.order
        self.preact, self.shortcut_preact = plan.preact, plan.shortcut_preact
        self.shortcut = make_shortcut(plan.shortcut)
        self.dropout = Dropout(plan.shortcut_dropout) if plan.shortcut_dropout else None
        self.inner_dropout = Dropout(plan.dropout) if plan.dropout else nn.Identity()  # of two
        self.gate = make_conv(plan.gate) if plan.gate else None
        # Without: the stem has activated already.
        self.norm1 = make_norm(plan.norms[0]) if plan.norms[0] else nn.Identity()
        self.conv1 = make_conv(plan.conv1)
        self.norm2 = make_norm(plan.norm2)
        self.conv2 = make_conv(plan.conv2)
        bottleneck = len(plan.convs) == 3
        self.norm3 = make_norm(plan.norm3) if bottleneck else nn.Identity()
        self.conv3 = make_conv(plan.conv3) if bottleneck else None
        self.join = Merge(plan.join)

    def forward(self, x: Tensor) -> Tensor:
        raw = x
        if self.preact:
            x = F.relu(self.norm1(x) if self.order == "full_pre" else x)

        source = x if self.shortcut_preact else raw
        shortcut = self.shortcut(source)
        if self.dropout is not None:
            shortcut = self.dropout(shortcut)
        gate = self.gate(source) if self.gate is not None else None

        if self.order == "full_pre":
            x = self.conv1(x)
            x = self.conv2(self.inner_dropout(F.relu(self.norm2(x))))
            if self.conv3 is not None:
                x = self.conv3(F.relu(self.norm3(x)))
            return self.join(shortcut, x, gate)

        x = F.relu(self.norm1(self.conv1(x)))
        if self.conv3 is None:
            last_norm, x = self.norm2, self.conv2(self.inner_dropout(x))
        else:
            x = F.relu(self.norm2(self.conv2(x)))
            last_norm, x = self.norm3, self.conv3(x)
        if self.order == "norm_after_add":
            return F.relu(last_norm(self.join(shortcut, x, gate)))
        x = last_norm(x)
        if self.order == "act_before_add":
            x = F.relu(x)
        x = self.join(shortcut, x, gate)
        return F.relu(x) if self.order == "post" else x
