"""The peers of `resnet_torch`: torchvision's ResNet-50, and ResNet-20 of torchvision's blocks; a
training step.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.timing import StepFunction
from shared.architecture.ops import Shape
from shared.training.config import OptimizerConfig
from tests.peers import import_torchvision

models = import_torchvision().models

NAMES = {
    "resnet50": "torchvision, channels_last",
    "resnet20": "torchvision's BasicBlock, channels_last",
}


class PlainShortcut(nn.Module):
    """Every second pixel, and zero channels on both sides."""

    def forward(self, x: Tensor) -> Tensor:
        zeros = x.shape[1] // 2
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, zeros, zeros))


class PlainResNet20(nn.Module):
    def __init__(self, channels: int, classes: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        block = models.resnet.BasicBlock
        blocks, cin = [], 16
        for width, stride in ((16, 1), (32, 2), (64, 2)):
            blocks += [block(cin, width, stride, PlainShortcut() if stride > 1 else None)]
            blocks += [block(width, width) for _ in range(2)]
            cin = width
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(cin, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = self.blocks(x)
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


def build(net: str, image: Shape, classes: int) -> nn.Module:
    model: Any = (
        models.resnet50(num_classes=classes)
        if net == "resnet50"
        else PlainResNet20(image[2], classes)
    )
    return model.to(memory_format=torch.channels_last)


def training_step(model: nn.Module, how: OptimizerConfig, learning_rate: float) -> StepFunction:
    """As PyTorch's own examples do it."""
    model.train()
    optimizer = torch.optim.SGD(
        model.parameters(), learning_rate, how.momentum, weight_decay=how.weight_decay
    )
    criterion = nn.CrossEntropyLoss()

    def step(images: np.ndarray, labels: np.ndarray) -> float:
        x, y = (
            torch.from_numpy(images).permute(0, 3, 1, 2),
            torch.from_numpy(labels),
        )  # so it is channels_last
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step
