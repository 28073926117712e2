"""ResNet-18 for Fashion-MNIST: a Sequential of residual blocks whose convolutions have biases."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Residual(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, use_1x1conv=False, stride: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, stride=stride)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv3 = nn.Conv2d(in_channels, out_channels, 1, stride=stride) if use_1x1conv else None
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.bn2 = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.conv3 is not None:
            x = self.conv3(x)
        return F.relu(y + x)


class GlobalAvgPool2d(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, kernel_size=x.size()[2:])


class FlattenLayer(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], -1)


def resnet_block(in_channels: int, out_channels: int, count: int, first_block=False):
    if first_block:
        assert in_channels == out_channels
    blocks = []
    for i in range(count):
        if i == 0 and not first_block:
            blocks.append(Residual(in_channels, out_channels, use_1x1conv=True, stride=2))
        else:
            blocks.append(Residual(out_channels, out_channels))
    return nn.Sequential(*blocks)


def net() -> nn.Module:
    model = nn.Sequential(
        nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
    )
    model.add_module("resnet_block1", resnet_block(64, 64, 2, first_block=True))
    model.add_module("resnet_block2", resnet_block(64, 128, 2))
    model.add_module("resnet_block3", resnet_block(128, 256, 2))
    model.add_module("resnet_block4", resnet_block(256, 512, 2))
    model.add_module("global_avg_pool", GlobalAvgPool2d())
    model.add_module("fc", nn.Sequential(FlattenLayer(), nn.Linear(512, 10)))
    return model
