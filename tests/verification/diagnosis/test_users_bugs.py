"""Bugs in a user's PyTorch code around torchvision's own models, found from files that PyTorch has
written: weights as a state dict, and images and outputs as an .npz.

None of it was made with the hypotheses that look for it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from shared import open_checkpoint, probe_images
from shared.architecture.preprocessing import PREPROCESSING
from shared.frameworks.diagnose import diagnose
from tests.peers import import_torchvision
from tests.zoo import rest_in_zoo

torch = pytest.importorskip("torch")
nn, functional = torch.nn, torch.nn.functional

SIDE = 64


class Bug(NamedTuple):
    """`causes` are parts of the sentences that must be said, all of them and no other."""

    name: str
    causes: tuple[str, ...]
    model: Callable[[Any], None] = lambda model: None
    images: Callable[[np.ndarray], np.ndarray] = lambda images: images
    output: Callable[[Any], Any] = lambda output: output
    arch: str = "resnet18"
    count: int = 2
    dtype: str = "float32"


def trained(arch: str) -> Any:
    """A model with norms as after training."""
    torch.manual_seed(0)
    model = getattr(import_torchvision().models, arch)(weights=None)
    generator = torch.Generator().manual_seed(1)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
        elif name.endswith("running_mean") or name.endswith("bias"):
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.2)
        elif tensor.ndim == 1:
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return model.eval()


def each(kind: type, change: Callable[[Any], None]) -> Callable[[Any], None]:
    return lambda model: [change(m) for m in model.modules() if isinstance(m, kind)] and None


def at(path: str, **values: Any) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        for name, value in values.items():
            setattr(model.get_submodule(path), name, value)

    return change


def instead(path: str, make: Callable[[Any], Any]) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, make(model.get_submodule(path)))

    return change


def tensor(name: str, change: Callable[[Any], Any]) -> Callable[[Any], None]:
    def apply(model: Any) -> None:
        found = model.state_dict()[name]
        found.copy_(change(found.clone()))

    return apply


def activations(make: Callable[[], Any]) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        for name, module in list(model.named_modules()):
            if isinstance(module, nn.ReLU):
                instead(name, lambda _: make())(model)

    return change


def exchanged(a: str, b: str) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        here, there = model.get_submodule(a), model.get_submodule(b)
        kept = {name: value.clone() for name, value in here.state_dict().items()}
        here.load_state_dict(there.state_dict())
        there.load_state_dict(kept)

    return change


def all_of(*changes: Callable[[Any], None]) -> Callable[[Any], None]:
    return lambda model: [change(model) for change in changes] and None


class Same(nn.Module):
    """TensorFlow's padding around a convolution of stride 2."""

    def __init__(self, conv: Any):
        super().__init__()
        self.conv = conv
        conv.padding = (0, 0)

    def forward(self, x: Any) -> Any:
        return self.conv(functional.pad(x, (0, 1, 0, 1)))


def first_of_block(model: Any) -> None:
    """V1's strides, in one block."""
    at("layer3.0.conv1", stride=(2, 2))(model)
    at("layer3.0.conv2", stride=(1, 1))(model)


EPS = each(nn.BatchNorm2d, lambda norm: setattr(norm, "eps", 1e-3))
IMAGENET = PREPROCESSING["imagenet"]

BUGS = (
    Bug("nothing", ()),
    Bug("nothing, in half precision", (), dtype="float16"),
    Bug("eps of all norms", ("the norms' epsilon is 0.001",), EPS, count=1, arch="resnet50"),
    Bug(
        "eps of one norm",
        ("stages.1.blocks.0.shortcut.norm: its epsilon is 0.001",),
        at("layer2.0.downsample.1", eps=1e-3),
    ),
    Bug(
        "pool without padding",
        ("the stem's pool sees outside the image is valid",),
        at("maxpool", padding=0),
    ),
    Bug("training mode", ("the batch's own statistics",), lambda model: model.train(), count=4),
    Bug(
        "one norm in training mode",
        ("stages.1.blocks.1.norm1 uses the batch's own statistics",),
        lambda model: model.layer2[1].bn1.train() and None,
        count=4,
    ),
    Bug(
        "SAME in one convolution",
        ("stages.2.blocks.0.conv1: its padding is same",),
        instead("layer3.0.conv1", Same),
    ),
    Bug(
        "one convolution dilated",
        ("stages.3.blocks.1.conv1: it is dilated by 2",),
        at("layer4.1.conv1", dilation=(2, 2), padding=(2, 2)),
    ),
    Bug(
        "one convolution padded by reflection",
        ("stages.1.blocks.1.conv1: it is padded with the image mirrored",),
        at("layer2.1.conv1", padding_mode="reflect", _reversed_padding_repeated_twice=[1, 1, 1, 1]),
    ),
    Bug(
        "a maximum at the end",
        ("the global pool is max",),
        instead("avgpool", lambda _: nn.AdaptiveMaxPool2d(1)),
    ),
    Bug(
        "a block without ReLU",
        (
            "the activation behind stages.2.blocks.1.norm1: left out",
            "the last activation of stages.2.blocks.1: left out",
        ),
        instead("layer3.1.relu", lambda _: nn.Identity()),
    ),
    Bug(
        "the stem without ReLU",
        ("the activation behind stem.norm1: left out",),
        instead("relu", lambda _: nn.Identity()),
    ),
    Bug("leaky ReLU", ("leaky ReLU (0.01)",), activations(nn.LeakyReLU)),
    Bug("GELU", ("the activations are GELU,",), activations(nn.GELU)),
    Bug("strides of one block", ("strides in conv1",), first_of_block, arch="resnet50"),
    Bug(
        "two blocks exchanged",
        ("stages.2.blocks.2 and stages.2.blocks.4 are exchanged",),
        exchanged("layer3.2", "layer3.4"),
        arch="resnet50",
    ),
    Bug(
        "a variance stored as a deviation",
        ("stages.1.blocks.0.shortcut.norm: its variance stored as a deviation",),
        tensor("layer2.0.downsample.1.running_var", lambda v: v.sqrt()),
        dtype="float64",
        count=8,
    ),
    Bug("BGR", ("BGR for RGB",), images=lambda x: x[..., ::-1]),
    Bug(
        "the mean subtracted only",
        ("not divided by the deviation",),
        images=lambda x: x * np.array(IMAGENET.std),
        arch="resnet34",
    ),
    Bug(
        "channels first by reshape",
        ("without a transposition",),
        images=lambda x: x.transpose(0, 3, 1, 2).reshape(x.shape),
    ),
    Bug("softmax", ("a softmax",), output=lambda y: torch.softmax(y, 1)),
    Bug(
        "features, and eps",
        ("the norms' epsilon is 0.001",),
        all_of(EPS, instead("fc", lambda _: nn.Identity())),
    ),
    Bug("eps and BGR", ("epsilon is 0.001", "BGR"), EPS, lambda x: x[..., ::-1]),
    Bug(
        "pool without padding, and softmax",
        ("the stem's pool sees outside the image is valid", "a softmax"),
        at("maxpool", padding=0),
        output=lambda y: torch.softmax(y, 1),
    ),
    Bug(
        "a kernel flipped, and the eps of one norm",
        ("flipped in height and width", "stages.0.blocks.1.norm2: its epsilon is 0.001"),
        all_of(
            tensor("layer1.0.conv1.weight", lambda w: w.flip(2, 3)), at("layer1.1.bn2", eps=1e-3)
        ),
    ),
    Bug(
        "softmax, and a variance",
        ("a softmax", "stages.2.blocks.0.norm2: its variance stored as a deviation"),
        tensor("layer3.0.bn2.running_var", lambda v: v.sqrt()),
        output=lambda y: torch.softmax(y, 1),
        count=3,
    ),
    Bug(
        "two kernels",
        ("stages.0.blocks.1.conv2: its height and width", "stages.3.blocks.0.conv1: flipped in wi"),
        all_of(
            tensor("layer1.1.conv2.weight", lambda w: w.transpose(2, 3)),
            tensor("layer4.0.conv1.weight", lambda w: w.flip(3)),
        ),
    ),
)


NAMED = {bug.name: bug for bug in BUGS}
SHORT = ("nothing, in half precision", "pool without padding")


@pytest.mark.parametrize("name", rest_in_zoo(NAMED, SHORT))
def test_a_users_bug_is_named(name: str, tmp_path: Path) -> None:
    bug = NAMED[name]
    model = trained(bug.arch)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    images = probe_images((bug.count, SIDE, SIDE, 3)).astype(np.float32)
    fed = np.ascontiguousarray(bug.images(images.astype(np.float64)).transpose(0, 3, 1, 2))
    dtype = getattr(torch, bug.dtype)
    bug.model(model.to(dtype))
    with torch.no_grad():
        output = bug.output(model(torch.tensor(fed).to(dtype)))
    np.savez(tmp_path / "port.npz", images=images, outputs=output.numpy())
    found = diagnose(open_checkpoint(tmp_path / "weights.pth"), tmp_path / "port.npz")
    assert found.explained, found.nearest
    assert found.same == (not bug.causes)
    said = [] if found.same else [cause.what for cause in found.causes]
    assert len(said) == len(bug.causes), said
    assert all(any(part in what for what in said) for part in bug.causes), said
