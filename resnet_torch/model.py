"""ResNet V1 and V2 in PyTorch.

He et al. 2015 (arXiv:1512.03385) and 2016 (arXiv:1603.05027). Every number comes from the plan
(`shared.architecture.plan`); attribute paths are the canonical layer names. Tensors are NCHW, in
PyTorch's channels_last memory format where the model is. `resnet_keras/model.py` and
`resnet_flax/model.py` say the same line by line.
"""

from __future__ import annotations

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn

from resnet_torch.ablation import AblationBlock
from resnet_torch.layers import (
    Dropout,
    GlobalPool2d,
    keep_biased,
    make_conv,
    make_linear,
    make_norm,
    make_pool,
    make_shortcut,
)
from shared.architecture import plan as p


class BasicBlock(nn.Module):
    """V1: 3 x 3, 3 x 3, add, ReLU."""

    def __init__(self, plan: p.Block):
        super().__init__()
        self.shortcut = make_shortcut(plan.shortcut)
        self.conv1 = make_conv(plan.conv1)
        self.norm1 = make_norm(plan.norm1)
        self.anti_alias = make_pool(plan.anti_alias)
        self.conv2 = make_conv(plan.conv2)
        self.norm2 = make_norm(plan.norm2)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.shortcut(x)
        x = F.relu(self.norm1(self.conv1(x)), inplace=True)
        x = self.norm2(self.conv2(self.anti_alias(x)))
        return F.relu(x.add_(shortcut), inplace=True)


class Bottleneck(nn.Module):
    """V1: 1 x 1 down, 3 x 3, 1 x 1 up, add, ReLU. The plan says which of them strides."""

    def __init__(self, plan: p.Block):
        super().__init__()
        self.shortcut = make_shortcut(plan.shortcut)
        self.conv1 = make_conv(plan.conv1)
        self.norm1 = make_norm(plan.norm1)
        self.conv2 = make_conv(plan.conv2)
        self.norm2 = make_norm(plan.norm2)
        self.anti_alias = make_pool(plan.anti_alias)
        self.conv3 = make_conv(plan.conv3)
        self.norm3 = make_norm(plan.norm3)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.shortcut(x)
        x = F.relu(self.norm1(self.conv1(x)), inplace=True)
        x = F.relu(self.norm2(self.conv2(x)), inplace=True)
        x = self.norm3(self.conv3(self.anti_alias(x)))
        return F.relu(x.add_(shortcut), inplace=True)


class PreActBasicBlock(nn.Module):
    """V2: norm, ReLU and convolution, twice; nothing after the addition."""

    def __init__(self, plan: p.Block):
        super().__init__()
        self.shortcut_preact = plan.shortcut_preact
        # None: the stem has activated already.
        self.norm1 = make_norm(plan.norm1) if plan.preact else None
        self.shortcut = make_shortcut(plan.shortcut)
        self.conv1 = make_conv(plan.conv1)
        self.norm2 = make_norm(plan.norm2)
        self.inner_dropout = Dropout(plan.dropout) if plan.dropout else nn.Identity()
        self.conv2 = make_conv(plan.conv2)

    def forward(self, x: Tensor) -> Tensor:
        preact = F.relu(self.norm1(x), inplace=True) if self.norm1 is not None else x
        shortcut = self.shortcut(preact if self.shortcut_preact else x)
        x = self.conv1(preact)
        x = F.relu(self.norm2(x), inplace=True)
        x = self.conv2(self.inner_dropout(x))
        return x.add_(shortcut)


class PreActBottleneck(nn.Module):
    """V2: norm, ReLU and convolution, three times; nothing after the addition."""

    def __init__(self, plan: p.Block):
        super().__init__()
        self.shortcut_preact = plan.shortcut_preact
        # None: the stem has activated already.
        self.norm1 = make_norm(plan.norm1) if plan.preact else None
        self.shortcut = make_shortcut(plan.shortcut)
        self.conv1 = make_conv(plan.conv1)
        self.norm2 = make_norm(plan.norm2)
        self.conv2 = make_conv(plan.conv2)
        self.norm3 = make_norm(plan.norm3)
        self.conv3 = make_conv(plan.conv3)

    def forward(self, x: Tensor) -> Tensor:
        preact = F.relu(self.norm1(x), inplace=True) if self.norm1 is not None else x
        shortcut = self.shortcut(preact if self.shortcut_preact else x)
        x = self.conv1(preact)
        x = self.conv2(F.relu(self.norm2(x), inplace=True))
        x = self.conv3(F.relu(self.norm3(x), inplace=True))
        return x.add_(shortcut)


BLOCKS = {
    "BasicBlock": BasicBlock,
    "Bottleneck": Bottleneck,
    "PreActBasicBlock": PreActBasicBlock,
    "PreActBottleneck": PreActBottleneck,
    "AblationBlock": AblationBlock,
}


class Stem(nn.Sequential):
    """A norm of the images, convolutions with norm and ReLU between them, the pool: those that the
    plan has.
    """

    def __init__(self, plan: p.Stem):
        layers = OrderedDict[str, nn.Module]()
        if plan.input_norm is not None:
            layers["input_norm"] = make_norm(plan.input_norm)
        for k, (conv, norm) in enumerate(zip(plan.convs, plan.norms, strict=True), start=1):
            layers[f"conv{k}"] = make_conv(conv)
            if norm is not None:  # a V2 stem ends in a bare convolution
                layers[f"norm{k}"] = make_norm(norm)
                layers[f"relu{k}"] = nn.ReLU(inplace=True)
        layers["pool"] = make_pool(plan.pool)
        layers["anti_alias"] = make_pool(plan.anti_alias)
        super().__init__(layers)


class Stage(nn.Module):
    """Residual blocks, one after the other."""

    def __init__(self, plan: p.Stage):
        super().__init__()
        self.blocks = nn.Sequential(*(BLOCKS[block.kind](block) for block in plan))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)


class ResNet(nn.Module):
    """Images [N, C, H, W] to logits [N, classes]; without a classifier, to features or a feature
    map.
    """

    def __init__(self, plan: p.Plan):
        super().__init__()
        self.spec = plan.spec
        self.stem = Stem(plan.stem)  # (N, 64, 56, 56) in a ResNet-50 at 224
        self.stages = nn.Sequential(*map(Stage, plan.stages))  # (N, 2048, 7, 7)
        self.final_norm = make_norm(plan.final_norm) if plan.final_norm else None
        self.final_act = plan.final_act
        self.pool = GlobalPool2d(plan.pool) if plan.pool else None  # (N, 2048)
        self.head = make_linear(plan.head) if plan.head else None  # (N, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.stages(x)
        if self.final_norm is not None:
            x = self.final_norm(x)
        if self.final_act:
            x = F.relu(x)
        if self.pool is not None:
            x = self.pool(x)
        return self.head(x) if self.head is not None else x

    def add_module(self, name: str, module: nn.Module | None) -> None:
        """How `nn.SyncBatchNorm.convert_sync_batchnorm` gives back what it has converted."""
        if module is not None and self.spec.norm.running_var == "biased":
            module = keep_biased(module)
        super().add_module(name, module)
