"""The nearest preset: what `inspect` says about a file that is no network of ours."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from shared import CheckpointError, get_spec, make_plan
from shared.formats.checkpoint import Wanted, identify
from shared.formats.containers.archive import Archive, Entry
from shared.formats.layouts import from_canonical
from shared.formats.render import choose_scheme, render
from shared.naming.nearest_preset import by_shapes
from shared.naming.schemes import FORMATS
from tests.zoo import rest_in_zoo

FLOAT32 = np.dtype(np.float32)
Entries = dict[str, Entry]


def unreadable() -> np.ndarray:
    raise AssertionError("naming a network needs none of its values")


def tensor(*shape: int) -> Entry:
    return Entry(shape, FLOAT32, unreadable)


def state(preset: str, form: str = "torchvision", **changes: object) -> Entries:
    """The tensors of a preset, as a format names them."""
    spec, target = get_spec(preset, **changes), FORMATS[form]
    scheme = choose_scheme(spec, target)
    entries = {
        name: from_canonical(scheme, name, tensor(*shape))
        for name, shape in make_plan(spec).tensors.items()
    }
    return dict(render(spec, entries, target, scheme, target.containers[0]).entries)


def refusal(entries: Entries, container: str = "torch", **wanted: str) -> str:
    with pytest.raises(CheckpointError) as caught:
        identify(Path("file"), Archive(container, entries), Wanted(**wanted))
    message = str(caught.value)
    assert message.isprintable()
    assert message.startswith("file")
    assert len(message) < 2000
    return message


def vgg(norms: bool = False) -> Entries:
    """torchvision's VGG-16: kernels of the sizes of a ResNet-18's, in one row."""
    entries, channels, place = {}, 3, 0
    for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            entries[f"features.{place}.weight"] = tensor(width, channels, 3, 3)
            entries[f"features.{place}.bias"] = tensor(width)
            if norms:
                place += 1
                leaves = ("weight", "bias", "running_mean", "running_var")
                entries |= {f"features.{place}.{leaf}": tensor(width) for leaf in leaves}
            channels, place = width, place + 2
        place += 1
    for i, (outputs, inputs) in {0: (4096, 25088), 3: (4096, 4096), 6: (1000, 4096)}.items():
        entries |= {
            f"classifier.{i}.weight": tensor(outputs, inputs),
            f"classifier.{i}.bias": tensor(outputs),
        }
    return entries


def squeeze_excite(entries: Entries) -> Entries:
    """With the two small convolutions that SE-ResNet-50 has in every block."""
    found = dict(entries)
    for stage, depth in enumerate((3, 4, 6, 3)):
        width = 256 << stage
        for block in range(depth):
            for name, (outputs, inputs) in {
                "fc1": (width // 16, width),
                "fc2": (width, width // 16),
            }.items():
                found[f"layer{stage + 1}.{block}.se.{name}.weight"] = tensor(outputs, inputs, 1, 1)
                found[f"layer{stage + 1}.{block}.se.{name}.bias"] = tensor(outputs)
    return found


def without(entries: Entries, start: str) -> Entries:
    return {name: entry for name, entry in entries.items() if not name.startswith(start)}


def prefixed(entries: Entries, prefix: str) -> Entries:
    return {prefix + name: entry for name, entry in entries.items()}


MLP = {
    f"layers.{i}.{leaf}": tensor(*shape)
    for i, (outputs, inputs) in enumerate([(512, 784), (256, 512), (10, 256)])
    for leaf, shape in (("weight", (outputs, inputs)), ("bias", (outputs,)))
}


@pytest.mark.parametrize(
    ("entries", "word"),
    [
        (vgg(), "no norms"),
        (vgg(norms=True), "3 x 3 convolutions in a row"),
        (MLP, "no convolutions"),
    ],
    ids=["vgg", "vgg-with-norms", "mlp"],
)
def test_what_is_like_no_preset_is_told_none(entries: Entries, word: str) -> None:
    message = refusal(entries)
    assert word in message
    assert "preset" not in message


@pytest.mark.parametrize("classes", [1000, 7])
def test_a_block_that_is_missing(classes: int) -> None:
    """In the middle the network is still the preset; at the end of a stage it could be a shorter
    one.
    """
    entries = state("torchvision/resnet50", num_classes=classes)
    message = refusal(without(entries, "layer3.2."))
    assert "as torchvision, torchvision/resnet50: 15 missing: layer3.2.bn1.bias [256]" in message
    shorter = without(entries, "layer3.5.")
    found = identify(Path("file"), Archive("torch", shorter), Wanted())
    assert found.preset is None
    assert found.nearest() is not None
    assert str(found.nearest()) == (
        "torchvision/resnet50: 252 of its 267 tensors fit; "
        "15 missing: layer3.5.conv1.weight, layer3.5.bn1.weight, layer3.5.bn1.bias, …"
    )
    message = refusal(without(shorter, "layer3.1.conv2"))
    assert (
        "1 missing: layer3.1.conv2.weight [256, 256, 3, 3] | the nearest preset is "
        "torchvision/resnet50" in message
    )
    assert "16 missing: layer3.1.conv2.weight, layer3.5.conv1.weight" in message


def test_squeeze_and_excitation() -> None:
    entries = squeeze_excite(state("torchvision/resnet50"))
    for tensors in (entries, prefixed(entries, "visual.")):
        assert "it has squeeze-and-excitation, as " in refusal(tensors)


def test_one_network_among_others() -> None:
    """It is found, and the others have to be left out on purpose."""
    entries = state("torchvision/resnet50") | {
        f"fpn.{i}.weight": tensor(256, 256, 3, 3) for i in range(300)
    }
    assert "300 tensors belong to no ResNet: fpn; --leave-out" in refusal(entries)
    wanted = Wanted(leave_out=("fpn*",))
    found = identify(Path("file"), Archive("torch", entries), wanted)
    assert (found.preset, len(found.left_out)) == ("torchvision/resnet50", 300)


@pytest.mark.parametrize(
    ("preset", "form", "container"),
    [
        ("torchvision/resnet18", "torchvision", "torch"),
        ("torchvision/resnext50_32x4d", "torchvision", "torch"),
        ("timm/resnet50c", "timm", "torch"),
        ("bit/r50x1", "bit", "npz"),
        ("cifar/resnet56", "akamaster", "torch"),
    ],
)
def test_names_that_nobody_knows(preset: str, form: str, container: str) -> None:
    """The network is known by its structure; without a stage's kernel, by its shapes alone."""
    entries = prefixed(state(preset, form, num_classes=3), "model_")
    found = identify(Path("file"), Archive(container, entries), Wanted())
    assert found.format.name == "structure"
    assert preset in found.candidates()
    kernel = next(name for name in entries if len(entries[name].shape) == 4)
    message = refusal(without(entries, kernel), container)
    assert f"the nearest preset is {preset}: " in message
    assert " kernels fit, by their shapes" in message


def test_a_preset_that_was_named_wrongly() -> None:
    message = refusal(state("torchvision/resnet50"), preset="torchvision/resnet18")
    assert "the nearest preset is torchvision/resnet50: all of its 267 tensors fit" in message
    message = refusal(without(state("torchvision/resnet50"), "fc.bias"), preset="timm/resnet50")
    assert "the nearest" not in message  # the same tensors as torchvision's


def test_a_narrow_network_is_nearest_by_its_names() -> None:
    entries = state(
        "torchvision/resnet50", "timm", widths=(16, 32, 64, 128), **{"stem.convs": ((7, 2, 16),)}
    )
    message = refusal(without(entries, "layer1.0.conv1"))
    assert "nearest preset is torchvision/resnet50" in message
    assert "of another shape: conv1.weight, bn1.weight" in message


HOSTILE: dict[str, Entries] = {
    "shapes": {f"x{i}": tensor(i) for i in range(16000)},
    "kernels": {f"x{i}": tensor(i % 999, i, 3, 3) for i in range(16000)},
    "blocks": {
        f"layer{s}.{b}.conv1.weight": tensor(3, 3) for s in range(1, 9) for b in range(2000)
    },
    "names": {f"{'y' * 500}{i}": tensor(3, 3) for i in range(3000)},
    "long": without(prefixed(state("torchvision/resnet50"), "z" * 400), f"{'z' * 400}conv1"),
    "empty": {f"x{i}.weight": tensor(0, 0, 0, 0) for i in range(300)},
    "scalars": {f"x{i}.weight": tensor() for i in range(300)},
}


# As many kernels are of as many shapes, and `test_find.py` has as many blocks.
HOSTILE_SHORT = HOSTILE.keys() - {"shapes", "blocks"}


@pytest.mark.parametrize("name", rest_in_zoo(HOSTILE, HOSTILE_SHORT))
def test_hostile_files_are_told_quickly(name: str) -> None:
    started = time.process_time()
    refusal(HOSTILE[name])
    assert time.process_time() - started < 6  # as for the attacks


def test_a_file_of_nothing_is_like_nothing() -> None:
    assert by_shapes({}) is None
    assert by_shapes({"a": (), "b": (0,)}) is None
