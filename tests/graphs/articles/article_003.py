"""ResNet50V2 after keras.applications, in PyTorch: the stride in the last unit of a stage, a bias
in the stem alone, a pool of -inf where Keras' pads with zeros.
"""

from __future__ import annotations

from torch import Tensor, nn


class Block2(nn.Module):
    def __init__(
        self,
        in_channel: int,
        filters: int,
        kernel_size: int = 3,
        stride: int = 1,
        conv_shortcut=False,
    ):
        super().__init__()
        self.preact = nn.Sequential(nn.BatchNorm2d(in_channel), nn.ReLU(True))
        self.shortcut = conv_shortcut
        if self.shortcut:
            self.short = nn.Conv2d(in_channel, 4 * filters, 1, stride=stride, bias=False)
        elif stride > 1:
            self.short = nn.MaxPool2d(kernel_size=1, stride=stride, padding=0)
        else:
            self.short = nn.Identity()
        self.conv1 = nn.Sequential(
            nn.Conv2d(in_channel, filters, 1, stride=1, bias=False),
            nn.BatchNorm2d(filters),
            nn.ReLU(True),
        )
        self.conv2 = nn.Sequential(
            nn.Conv2d(filters, filters, kernel_size, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(filters),
            nn.ReLU(True),
        )
        self.conv3 = nn.Conv2d(filters, 4 * filters, kernel_size=1, stride=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x1 = self.preact(x)
        x2 = self.short(x1) if self.shortcut else self.short(x)
        return self.conv3(self.conv2(self.conv1(x1))) + x2


class Stack2(nn.Module):
    def __init__(self, in_channel: int, filters: int, blocks: int, stride: int = 2):
        super().__init__()
        self.conv = nn.Sequential()
        self.conv.add_module("0", Block2(in_channel, filters, conv_shortcut=True))
        for i in range(1, blocks - 1):
            self.conv.add_module(str(i), Block2(4 * filters, filters))
        self.conv.add_module(str(blocks - 1), Block2(4 * filters, filters, stride=stride))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class ResNet50V2(nn.Module):
    def __init__(self, include_top=True, preact=True, use_bias=True, classes: int = 1000):
        super().__init__()
        self.conv1 = nn.Sequential()
        self.conv1.add_module("conv", nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=use_bias))
        if not preact:
            self.conv1.add_module("bn", nn.BatchNorm2d(64))
            self.conv1.add_module("relu", nn.ReLU())
        self.conv1.add_module("max_pool", nn.MaxPool2d(kernel_size=3, stride=2, padding=1))
        self.conv2 = Stack2(64, 64, 3)
        self.conv3 = Stack2(256, 128, 4)
        self.conv4 = Stack2(512, 256, 6)
        self.conv5 = Stack2(1024, 512, 3, stride=1)
        self.post = nn.Sequential()
        if preact:
            self.post.add_module("bn", nn.BatchNorm2d(2048))
            self.post.add_module("relu", nn.ReLU())
        if include_top:
            self.post.add_module("avg_pool", nn.AdaptiveAvgPool2d((1, 1)))
            self.post.add_module("flatten", nn.Flatten())
            self.post.add_module("fc", nn.Linear(2048, classes))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv5(self.conv4(self.conv3(self.conv2(self.conv1(x)))))
        return self.post(x)


def net() -> nn.Module:
    return ResNet50V2(classes=100)


def net_without_preact() -> nn.Module:
    """As the article offers it: neither of the two versions."""
    return ResNet50V2(classes=100, preact=False)
