"""What the verdicts say where a model is nearly a network, or is one at one size alone."""

from __future__ import annotations

from typing import Any

import pytest

from shared import get_spec, identify, probe_weights
from shared.errors import FrameworkError
from shared.frameworks.readers import reader_of
from shared.graphs.primitives import RawGraph
from shared.graphs.verdict import NO_RESNET, THIS_SIZE, identify_graph

torch = pytest.importorskip("torch")

from torch import nn

from tests.graphs.planted import randomise
from tests.peers import import_torchvision
from tests.zoo import in_zoo


def resnet18() -> Any:
    model = import_torchvision().models.resnet18(num_classes=10)
    randomise(model)
    return model


def small() -> Any:
    """Of one block in each stage."""
    resnet = import_torchvision().models.resnet
    model = resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1], num_classes=10)
    randomise(model)
    return model


def test_two_sizes_tell_a_window_that_is_cut_from_same() -> None:
    model = small()
    model.maxpool = nn.MaxPool2d(3, 2, 0, ceil_mode=True)
    found = identify(model, 64)
    assert found.recognised
    assert found.spec is not None
    assert found.spec.stem.pool_padding == "ceil"  # at 64 pixels alone it could be same


def test_a_window_over_the_whole_image_is_global_at_that_size() -> None:
    model = resnet18()
    model.avgpool = nn.AvgPool2d(2)
    found = identify(model, 64)
    assert (found.verdict, found.preset) == (THIS_SIZE, "torchvision/resnet18")
    assert found.image_sizes == [64, 65]
    assert found.departures[0].where == "avgpool"


def test_a_file_for_one_size_does_not_depart_at_another() -> None:
    model = small()
    model.avgpool = nn.AvgPool2d(2)
    read = reader_of(model)

    def fixed(size: int | None) -> RawGraph:
        graph = read(size)
        graph.fixed = True
        return graph

    found = identify_graph(fixed, 64)
    assert (found.verdict, found.departures, found.image_sizes) == (THIS_SIZE, [], [64])
    assert any("the file is for images of 64 x 64 pixels" in note for note in found.notes)


@pytest.mark.parametrize("affine", [in_zoo(True), False])
def test_a_norm_of_the_images_is_a_layer(affine: bool) -> None:
    model = resnet18()
    forward = model.forward
    model.bn_data = nn.BatchNorm2d(3)
    if not affine:
        model.bn_data.register_parameter("weight", None)
    randomise(model)
    model.forward = lambda x: forward(model.bn_data(x))
    found = identify(model, 64)
    assert found.recognised
    assert (found.verdict, found.preset) == ("same model", None)
    assert found.spec is not None
    assert found.spec.stem.input_norm == ("affine" if affine else "shift")
    assert [(d.where, d.what) for d in found.from_nearest] == [("bn_data", "extra")]


def test_a_pool_without_padding_is_none_with_it() -> None:
    model = small()
    model.maxpool = nn.MaxPool2d(3, 2)
    found = identify(model, 64)
    assert found.recognised
    assert found.spec is not None
    assert found.spec.stem.pool_padding == "valid"


def test_an_identity_behind_the_activation_is_another_network() -> None:
    spec = get_spec("timm/resnetv2_50", depths=(1, 2), widths=(8, 16))
    spec = spec.replace(stem_convs=((7, 2, 8),))
    import resnet_torch

    for sees in ("always", "projection"):
        own = spec.replace(**{"shortcut.preact": sees})
        model = resnet_torch.build(own, dtype="float64")
        resnet_torch.load_weights(model, probe_weights(own))
        found = identify(model, 64)
        assert found.recognised
        assert found.spec is not None
        assert found.spec.shortcut.preact == sees


def test_weights_that_are_not_numbers_prove_nothing() -> None:
    model = small()
    with torch.no_grad():
        model.fc.weight[0, 0] = float("nan")
    found = identify(model, 64)
    assert found.evidence is not None
    assert not found.evidence.passed
    assert not found.recognised


def test_what_is_no_resnet_and_what_is_no_model() -> None:
    found = identify(nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10)))
    assert found.verdict == NO_RESNET
    assert not found.recognised
    assert found.spec is None
    with pytest.raises(FrameworkError, match="expected a model, found int"):
        identify(3)
