"""Networks as people write them: functional, with lambdas, in place, and wrong on purpose."""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Lambda(nn.Module):
    def __init__(self, function: Any):
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def zeros_by_pad(x: Tensor, more: int) -> Tensor:
    """Option A in one line."""
    half = more // 2
    return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, half, more - half))


def zeros_by_cat(x: Tensor, more: int) -> Tensor:
    """Option A by a pool of one pixel and a copy times zero, behind the channels."""
    strided = F.avg_pool2d(x, 1, 2)
    return torch.cat((strided, strided.mul(0)), 1)


class Unit(nn.Module):
    def __init__(self, before: int, width: int, shortcut: Any, how: str):
        super().__init__()
        stride = 1 if before == width else 2
        self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut: nn.Module = nn.Sequential()
        if before != width:
            self.shortcut = Lambda(lambda x: shortcut(x, width - before))
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.activate(self.bn1(self.conv1(x)))))
        y += self.shortcut(x)
        return self.activate(y)

    def activate(self, x: Tensor) -> Tensor:
        match self.how:
            case "clamp":
                return x.clamp(min=0)
            case "where":
                return torch.where(x > 0, x, torch.zeros_like(x))
            case "maximum":
                return torch.maximum(x, torch.zeros(()).to(x))
            case "a view in place":
                flat = x.view(x.shape[0], -1)
                flat.relu_()
                return x
            case "half of both":
                return (x + x.abs()) / 2
        return F.relu(x, inplace=True)


class Cifar(nn.Module):
    """He's network for CIFAR-10, of 8 layers."""

    def __init__(self, shortcut: Any = zeros_by_pad, how: str = "", head: str = "mean"):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        widths = (16, 16, 32, 64)
        self.layers = nn.Sequential(
            *(Unit(b, w, shortcut, how) for b, w in itertools.pairwise(widths))
        )
        self.linear, self.head = nn.Linear(64, 10), head

    def forward(self, x: Tensor) -> Any:
        x = self.layers(F.relu(self.bn1(self.conv1(x))))
        match self.head:
            case "window":
                return self.linear(F.avg_pool2d(x, x.size(3)).view(x.size(0), -1))
            case "twice":
                return self.linear(x.mean(3).mean(2))
            case "sum":
                return self.linear(x.sum((2, 3)) / (x.shape[2] * x.shape[3]))
            case "1 x 1":
                kernel = self.linear.weight[:, :, None, None]
                y = F.conv2d(F.adaptive_avg_pool2d(x, 1), kernel, self.linear.bias)
                return y.flatten(1)
            case "einsum":
                return torch.einsum("nchw,kc->nk", x, self.linear.weight)
        return {"features": x, "logits": self.linear(x.mean((2, 3)))}


class Standardised(nn.Conv2d):
    """Weight standardisation by hand."""

    def forward(self, x: Tensor) -> Tensor:
        w = self.weight
        mean, var = w.mean((1, 2, 3), keepdim=True), w.var((1, 2, 3), keepdim=True, correction=0)
        return F.conv2d(x, (w - mean) / (var + 1e-8).sqrt(), None, self.stride, self.padding)


def standardised() -> nn.Module:
    net = Cifar()
    for module in list(net.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Conv2d):
                other = Standardised(
                    child.in_channels, child.out_channels, 3, child.stride, 1, bias=False
                )
                setattr(module, name, other)
    return net


def weight_normed() -> nn.Module:
    net = Cifar()
    nn.utils.parametrizations.weight_norm(net.layers[0].conv1)
    return net


def folded() -> nn.Module:
    """Norms folded into the convolutions in front of them, as before deployment."""
    net = Cifar().eval()
    pairs = [(net, "conv1", "bn1")]
    for unit in net.layers:
        pairs += [(unit, "conv1", "bn1"), (unit, "conv2", "bn2")]
    for owner, conv, norm in pairs:
        fused = nn.utils.fuse_conv_bn_eval(getattr(owner, conv), getattr(owner, norm))
        setattr(owner, conv, fused)
        setattr(owner, norm, nn.Identity())
    return net


class InPlace(nn.Module):
    """A pre-activation unit whose ReLU in place rectifies the shortcut as well."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.ModuleList(nn.BatchNorm2d(16) for _ in range(2))
        self.conv1 = nn.ModuleList(nn.Conv2d(16, 16, 3, 1, 1, bias=False) for _ in range(2))
        self.bn2 = nn.ModuleList(nn.BatchNorm2d(16) for _ in range(2))
        self.conv2 = nn.ModuleList(nn.Conv2d(16, 16, 3, 1, 1, bias=False) for _ in range(2))
        self.final, self.fc = nn.BatchNorm2d(16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for k in range(2):
            y = self.bn1[k](x)
            z = F.relu_(y)
            x = self.conv2[k](F.relu(self.bn2[k](self.conv1[k](z)))) + y  # y is z by now
        return self.fc(F.relu(self.final(x)).mean((2, 3)))
