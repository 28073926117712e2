"""Changes to torchvision's ResNet with bottlenecks of depths 2, 2, 2, 2, as a person might make
them, and what the report has to say.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.peers import import_torchvision

SAME = ""  # the report names no place: the function is the network's


class Change(NamedTuple):
    """Where the first departure is, what it is about, and the change itself."""

    where: str
    what: str
    plant: Callable[[Any], None]


CHANGES: dict[str, Change] = {}
Unit = Callable[[Any, Tensor], Tensor]


def base() -> Any:
    """The network, with parameters and statistics that hide nothing."""
    return copy.deepcopy(_base())


@functools.cache  # drawing its parameters takes longer than copying them
def _base() -> Any:
    resnet = import_torchvision().models.resnet
    model = resnet.ResNet(resnet.Bottleneck, [2, 2, 2, 2], num_classes=10)
    randomise(model)
    return model.eval()


def randomise(model: nn.Module) -> None:
    """Norms as after training, in place."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
        elif tensor.dim() == 1 and tensor.is_floating_point():
            shift = 0.75 if name.endswith("weight") else 0.0
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1 + shift)


def change(name: str, where: str, what: str) -> Callable[[Callable[[Any], None]], None]:
    def kept(plant: Callable[[Any], None]) -> None:
        CHANGES[name] = Change(where, what, plant)

    return kept


def forward_of(unit: Any, forward: Unit) -> None:
    """Give one unit a forward of its own."""
    unit.forward = lambda x: forward(unit, x)


def branch(b: Any, x: Tensor) -> Tensor:
    y = F.relu(b.bn1(b.conv1(x)))
    y = F.relu(b.bn2(b.conv2(y)))
    return b.bn3(b.conv3(y))


def skip(b: Any, x: Tensor) -> Tensor:
    return x if b.downsample is None else b.downsample(x)


@change("eps of a norm", "layer3.1.bn2", "eps")
def _(m: Any) -> None:
    m.layer3[1].bn2.eps = 1e-3


@change("eps of the first norm", "bn1", "eps")
def _(m: Any) -> None:
    m.bn1.eps = 1e-6


@change("dilation", "layer3.1.conv2", "dilation")
def _(m: Any) -> None:
    m.layer3[1].conv2.dilation, m.layer3[1].conv2.padding = (2, 2), (2, 2)


@change("kernel of 5", "layer2.1.conv2", "kernel")
def _(m: Any) -> None:
    m.layer2[1].conv2 = nn.Conv2d(128, 128, 5, 1, 2, bias=False)


@change("kernel of 3 in the stem", "conv1", "kernel")
def _(m: Any) -> None:
    m.conv1 = nn.Conv2d(3, 64, 3, 2, 1, bias=False)


@change("leaky ReLU", "layer2.1", "operator")
def _(m: Any) -> None:
    def forward(b: Any, x: Tensor) -> Tensor:
        y = F.leaky_relu(b.bn1(b.conv1(x)), 0.01)
        return F.relu(b.bn3(b.conv3(F.relu(b.bn2(b.conv2(y))))) + x)

    forward_of(m.layer2[1], forward)


@change("SiLU for the last activation of a unit", "layer3.1", "operator")
def _(m: Any) -> None:
    forward_of(m.layer3[1], lambda b, x: F.silu(branch(b, x) + x))


@change("GELU in the stem", "relu", "operator")
def _(m: Any) -> None:
    m.relu = nn.GELU()


@change("ReLU6", "layer1.1.relu", "operator")
def _(m: Any) -> None:
    m.layer1[1].relu = nn.ReLU6()


@change("no ReLU behind an addition", "layer2.1", "missing")
def _(m: Any) -> None:
    forward_of(m.layer2[1], lambda b, x: branch(b, x) + x)


@change("no ReLU inside", "layer4.1", "missing")
def _(m: Any) -> None:
    def forward(b: Any, x: Tensor) -> Tensor:
        y = b.bn2(b.conv2(F.relu(b.bn1(b.conv1(x)))))
        return F.relu(b.bn3(b.conv3(y)) + x)

    forward_of(m.layer4[1], forward)


@change("no ReLU in the stem", "bn1", "missing")
def _(m: Any) -> None:
    m.relu = nn.Identity()


@change("no norm", "layer3.1", "missing")
def _(m: Any) -> None:
    m.layer3[1].bn2 = nn.Identity()


@change("no shortcut", "layer3.1", "missing")
def _(m: Any) -> None:
    forward_of(m.layer3[1], lambda b, x: F.relu(branch(b, x)))


@change("shortcut times 0.9", "layer3.1", "extra")
def _(m: Any) -> None:
    forward_of(m.layer3[1], lambda b, x: F.relu(branch(b, x) + 0.9 * x))


@change("branch times 0.8", "layer2.1", "extra")
def _(m: Any) -> None:
    forward_of(m.layer2[1], lambda b, x: F.relu(0.8 * branch(b, x) + x))


@change("subtraction for addition", "layer1.1", "extra")
def _(m: Any) -> None:
    forward_of(m.layer1[1], lambda b, x: F.relu(x - branch(b, x)))


@change("the branch added to itself", "layer3.1", "extra")
def _(m: Any) -> None:
    def forward(b: Any, x: Tensor) -> Tensor:
        y = branch(b, x)
        return F.relu(y + y.relu())

    forward_of(m.layer3[1], forward)


@change("the branch rectifies its input in place", "layer4.1", "extra")
def _(m: Any) -> None:
    def forward(b: Any, x: Tensor) -> Tensor:
        y = F.silu(x, inplace=True)  # x itself is changed, and so is the shortcut
        return F.relu(branch(b, y) + x)

    forward_of(m.layer4[1], forward)


@change("stem pool pads rows alone", "maxpool", "padding")
def _(m: Any) -> None:
    m.maxpool = nn.MaxPool2d(3, 2, (1, 0))


@change("stem pool averages", "maxpool", "operator")
def _(m: Any) -> None:
    m.maxpool = nn.AvgPool2d(3, 2, 1)


@change("stem pool of 2", "maxpool", "window")
def _(m: Any) -> None:
    m.maxpool = nn.MaxPool2d(2, 2)


@change("no stem pool", "relu", "missing")
def _(m: Any) -> None:
    m.maxpool = nn.Identity()


@change("groups", "layer4.1.conv2", "groups")
def _(m: Any) -> None:
    m.layer4[1].conv2 = nn.Conv2d(512, 512, 3, 1, 1, groups=2, bias=False)


@change("wider in one unit", "layer2.1.conv1", "channels")
def _(m: Any) -> None:
    b = m.layer2[1]
    b.conv1, b.bn1 = nn.Conv2d(512, 144, 1, bias=False), nn.BatchNorm2d(144)
    b.conv2 = nn.Conv2d(144, 128, 3, 1, 1, bias=False)


@change("a norm in training mode", "layer1.1.bn3", "operator")
def _(m: Any) -> None:
    forward_of(
        m.layer1[1].bn3,
        lambda n, x: F.batch_norm(x, None, None, n.weight, n.bias, True, 0.1, n.eps),
    )


@change("GroupNorm for one norm", "layer2.0.bn2", "operator")
def _(m: Any) -> None:
    m.layer2[0].bn2 = nn.GroupNorm(32, 128)


@change("stride in another convolution", "layer3.0.conv1", "stride")
def _(m: Any) -> None:
    m.layer3[0].conv1.stride, m.layer3[0].conv2.stride = (2, 2), (1, 1)


@change("no stride in one stage", "layer4.0", "stride")
def _(m: Any) -> None:
    m.layer4[0].conv2.stride = (1, 1)
    m.layer4[0].downsample[0].stride = (1, 1)


@change("two layers in the head", "fc", "extra")
def _(m: Any) -> None:
    m.fc = nn.Sequential(nn.Linear(2048, 32), nn.ReLU(), nn.Linear(32, 10))


@change("a norm in the head", "fc", "extra")
def _(m: Any) -> None:
    m.fc = nn.Sequential(nn.BatchNorm1d(2048), nn.Linear(2048, 10))


@change("maximum for the mean", "avgpool", "pool")
def _(m: Any) -> None:
    m.avgpool = nn.AdaptiveMaxPool2d(1)


@change("projection without norm", "layer4.0.downsample", "missing")
def _(m: Any) -> None:
    m.layer4[0].downsample = nn.Conv2d(1024, 2048, 1, 2, bias=False)


@change("ReLU in the projection", "layer3.0.downsample", "extra")
def _(m: Any) -> None:
    m.layer3[0].downsample.append(nn.ReLU())


@change("average pool in one projection", "layer2.0.downsample", "extra")
def _(m: Any) -> None:
    conv, norm = m.layer2[0].downsample
    conv.stride = (1, 1)
    m.layer2[0].downsample = nn.Sequential(nn.AvgPool2d(2, 2), conv, norm)


@change("reflected padding", "layer1.1.conv2", "extra")
def _(m: Any) -> None:
    old = m.layer1[1].conv2
    m.layer1[1].conv2 = nn.Conv2d(64, 64, 3, 1, 1, bias=False, padding_mode="reflect")
    m.layer1[1].conv2.weight = old.weight


@change("SAME padding in one strided convolution", "layer2.0", "padding")
def _(m: Any) -> None:
    b = m.layer2[0]
    b.conv2.padding = (0, 0)

    def forward(b: Any, x: Tensor) -> Tensor:
        y = F.pad(F.relu(b.bn1(b.conv1(x))), (0, 1, 0, 1))
        return F.relu(b.bn3(b.conv3(F.relu(b.bn2(b.conv2(y))))) + skip(b, x))

    forward_of(b, forward)


@change("squeeze and excitation in one unit", "layer3.1", "extra")
def _(m: Any) -> None:
    b = m.layer3[1]
    b.squeeze, b.excite = nn.Conv2d(1024, 16, 1), nn.Conv2d(16, 1024, 1)

    def forward(b: Any, x: Tensor) -> Tensor:
        y = branch(b, x)
        gate = b.excite(F.relu(b.squeeze(y.mean((2, 3), keepdim=True)))).sigmoid()
        return F.relu(y * gate + x)

    forward_of(b, forward)


@change("one unit pre-activated", "layer2", "missing")
def _(m: Any) -> None:
    b = m.layer2[1]
    b.bn1 = nn.BatchNorm2d(512)
    b.bn3 = nn.BatchNorm2d(128)

    def forward(b: Any, x: Tensor) -> Tensor:
        y = b.conv1(F.relu(b.bn1(x)))
        y = b.conv2(F.relu(b.bn2(y)))
        return b.conv3(F.relu(b.bn3(y))) + x

    forward_of(b, forward)


@change("a unit more in one stage", SAME, "depths")
def _(m: Any) -> None:
    m.layer3.append(type(m.layer3[1])(1024, 256))


@change("an L2 norm in front of the head", "ResNet", "extra")
def _(m: Any) -> None:
    def forward(x: Tensor) -> Tensor:
        x = m.maxpool(m.relu(m.bn1(m.conv1(x))))
        x = m.layer4(m.layer3(m.layer2(m.layer1(x))))
        return m.fc(F.normalize(m.avgpool(x).flatten(1)))

    m.forward = forward


# What is another way to say the same.


@change("a bias of a convolution", SAME, "bias")
def _(m: Any) -> None:
    m.layer1[0].conv3 = nn.Conv2d(64, 256, 1, bias=True)


@change("a head without bias", SAME, "")
def _(m: Any) -> None:
    m.fc = nn.Linear(2048, 10, bias=False)


@change("the input normalised inside", SAME, "")
def _(m: Any) -> None:
    old = m.forward
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    m.register_buffer("mean", mean.view(1, 3, 1, 1))
    m.register_buffer("std", std.view(1, 3, 1, 1))
    m.forward = lambda x: old((x - m.mean) / m.std)


@change("channels_last", SAME, "")
def _(m: Any) -> None:
    m.to(memory_format=torch.channels_last)


@change("dropout in front of the head", SAME, "")
def _(m: Any) -> None:
    m.fc = nn.Sequential(nn.Dropout(0.5), m.fc)


@change("a unit that is used twice", SAME, "")
def _(m: Any) -> None:
    m.layer3.append(m.layer3[1])
