"""The networks of two well-known CIFAR repositories, written anew from their code: names, strides
and shortcuts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _conv(cin: int, cout: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(cin, cout, kernel, stride, padding=kernel // 2, bias=False)


class ZeroPad(nn.Module):
    """Option A: every second pixel, and a quarter of the new channels as zeros on both sides."""

    def __init__(self, planes: int):
        super().__init__()
        self.side = planes // 4

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.side, self.side), "constant", 0)


class Basic(nn.Module):
    expansion = 1

    def __init__(self, cin: int, planes: int, stride: int, option: str = "B"):
        super().__init__()
        self.conv1, self.bn1 = _conv(cin, planes, 3, stride), nn.BatchNorm2d(planes)
        self.conv2, self.bn2 = _conv(planes, planes, 3), nn.BatchNorm2d(planes)
        self.shortcut: nn.Module = nn.Sequential()
        if (stride != 1 or cin != planes) and option == "A":
            self.shortcut = ZeroPad(planes)
        elif stride != 1 or cin != planes:
            self.shortcut = nn.Sequential(_conv(cin, planes, 1, stride), nn.BatchNorm2d(planes))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + self.shortcut(x))


class Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, cin: int, planes: int, stride: int):
        super().__init__()
        self.conv1, self.bn1 = _conv(cin, planes, 1), nn.BatchNorm2d(planes)
        self.conv2, self.bn2 = _conv(planes, planes, 3, stride), nn.BatchNorm2d(planes)
        self.conv3, self.bn3 = _conv(planes, 4 * planes, 1), nn.BatchNorm2d(4 * planes)
        self.shortcut = nn.Sequential()
        if stride != 1 or cin != 4 * planes:
            self.shortcut = nn.Sequential(
                _conv(cin, 4 * planes, 1, stride), nn.BatchNorm2d(4 * planes)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        return F.relu(self.bn3(self.conv3(out)) + self.shortcut(x))


class PreActBasic(nn.Module):
    """The projection sees the activated input, the identity the raw one; there is none without a
    projection.
    """

    expansion = 1

    def __init__(self, cin: int, planes: int, stride: int):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(cin), _conv(cin, planes, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(planes), _conv(planes, planes, 3)
        if stride != 1 or cin != planes:
            self.shortcut = nn.Sequential(_conv(cin, planes, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(x))
        shortcut = self.shortcut(out) if hasattr(self, "shortcut") else x
        return self.conv2(F.relu(self.bn2(self.conv1(out)))) + shortcut


class PreActBottleneck(nn.Module):
    expansion = 4

    def __init__(self, cin: int, planes: int, stride: int):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(cin), _conv(cin, planes, 1)
        self.bn2, self.conv2 = nn.BatchNorm2d(planes), _conv(planes, planes, 3, stride)
        self.bn3, self.conv3 = nn.BatchNorm2d(planes), _conv(planes, 4 * planes, 1)
        if stride != 1 or cin != 4 * planes:
            self.shortcut = nn.Sequential(_conv(cin, 4 * planes, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(x))
        shortcut = self.shortcut(out) if hasattr(self, "shortcut") else x
        out = self.conv2(F.relu(self.bn2(self.conv1(out))))
        return self.conv3(F.relu(self.bn3(out))) + shortcut


def _stage(
    block: type, cin: int, planes: int, depth: int, stride: int, **options: str
) -> nn.Sequential:
    strides = [stride] + [1] * (depth - 1)
    inputs = [cin] + [planes * block.expansion] * (depth - 1)
    return nn.Sequential(
        *(block(c, planes, s, **options) for c, s in zip(inputs, strides, strict=True))
    )


class Akamaster(nn.Module):
    """pytorch_resnet_cifar10 resnet.py: three stages, option A or B."""

    def __init__(self, depths: Sequence[int], option: str):
        super().__init__()
        self.conv1, self.bn1 = _conv(3, 16, 3), nn.BatchNorm2d(16)
        self.layer1 = _stage(Basic, 16, 16, depths[0], 1, option=option)
        self.layer2 = _stage(Basic, 16, 32, depths[1], 2, option=option)
        self.layer3 = _stage(Basic, 32, 64, depths[2], 2, option=option)
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        out = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.linear(torch.flatten(F.avg_pool2d(out, out.size()[3]), 1))


class Kuangliu(nn.Module):
    """pytorch-cifar models/resnet.py and preact_resnet.py: four stages; a pre-activation net has no
    bn1 of its own.
    """

    def __init__(self, block: type, depths: Sequence[int]):
        super().__init__()
        self.conv1 = _conv(3, 64, 3)
        if block in (Basic, Bottleneck):
            self.bn1 = nn.BatchNorm2d(64)
        wide = block.expansion
        self.layer1 = _stage(block, 64, 64, depths[0], 1)
        self.layer2 = _stage(block, 64 * wide, 128, depths[1], 2)
        self.layer3 = _stage(block, 128 * wide, 256, depths[2], 2)
        self.layer4 = _stage(block, 256 * wide, 512, depths[3], 2)
        self.linear = nn.Linear(512 * wide, 10)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(x)
        if hasattr(self, "bn1"):
            out = F.relu(self.bn1(out))
        out = self.layer4(self.layer3(self.layer2(self.layer1(out))))
        return self.linear(torch.flatten(F.avg_pool2d(out, 4), 1))
