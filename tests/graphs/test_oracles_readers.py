"""Other people's networks in JAX and Keras, identified from their own packages.

Each is told what it is by its authors; the weights are drawn anew, because fresh ones hide what
they are multiplied with.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from shared.frameworks.identify import identify
from tests.graphs.reading import spread_out
from tests.zoo import rest_in_zoo


def _drawn(value: np.ndarray, seed: int) -> np.ndarray:
    """Vectors around one and kernels by their fan, so that features stay of one size."""
    if value.dtype.kind != "f":
        return value
    if value.size > max(value.shape, default=1):
        return spread_out(value, seed)
    vector = spread_out(value.reshape(-1), seed).reshape(value.shape)  # Haiku's have four axes
    return (0.8 + 0.2 * vector).astype(value.dtype)


def _tree(tree: Any) -> Any:
    import jax

    leaves, structure = jax.tree_util.tree_flatten(tree)
    drawn = [
        _drawn(np.asarray(leaf), k) if str(getattr(leaf, "dtype", "")).startswith("float") else leaf
        for k, leaf in enumerate(leaves)
    ]
    return jax.tree_util.tree_unflatten(structure, drawn)


def _haiku(name: str, v2: bool) -> Any:
    hk = pytest.importorskip("haiku")
    import jax

    net = hk.transform_with_state(
        lambda x, is_training: getattr(hk.nets, name)(10, resnet_v2=v2)(x, is_training)
    )
    shape = jax.ShapeDtypeStruct((1, 64, 64, 3), "float32")
    params, state = jax.eval_shape(lambda k, x: net.init(k, x, True), jax.random.key(0), shape)
    zeros = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), (params, state))
    return (net, *_tree(zeros))


def _linen(package: str, name: str, **how: Any) -> Any:
    import jax

    module = getattr(pytest.importorskip(package), name)(**how)
    shape = jax.ShapeDtypeStruct((1, 64, 64, 3), "float32")
    variables = jax.eval_shape(lambda k, x: module.init(k, x), jax.random.key(0), shape)
    return module, _tree(jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), variables))


def _keras(model: Any) -> Any:
    import keras

    for k, variable in enumerate(model.variables):
        value = keras.ops.convert_to_numpy(variable)
        if "seed" not in variable.path and "normalization" not in variable.path:
            variable.assign(_drawn(value, k))
    return model


def _application(name: str) -> Any:
    keras = pytest.importorskip("keras")
    options = {"weights": None, "classes": 10, "classifier_activation": None}
    return _keras(getattr(keras.applications, name)(**options))


def _hub(blocks: list[int], kind: str, *, v2: bool = False, deep: bool = False) -> Any:
    keras_hub = pytest.importorskip("keras_hub")
    stem = ([32, 32, 64], [3, 3, 3]) if deep else ([64], [7])
    widths, options = [64, 128, 256, 512], {"image_shape": (224, 224, 3)}
    build = keras_hub.models.ResNetBackbone
    return _keras(
        build(*stem, widths, blocks, [1, 2, 2, 2], kind, use_pre_activation=v2, **options)
    )


def _flaxmodels(name: str) -> Any:
    return _linen("flaxmodels", name, output="logits", pretrained=None, num_classes=10)


def _jax_resnet(name: str) -> Any:
    return _linen("jax_resnet", name, n_classes=10)


# What is made, and the preset that it is (None: a network that is no preset, with these fields).
ORACLES: dict[str, tuple[Callable[[], Any], str | None, dict[str, Any]]] = {
    "haiku ResNet18": (
        lambda: _haiku("ResNet18", False),
        None,
        {"stem.padding": "same", "block.padding": "same"},
    ),
    "haiku ResNet50 V2": (lambda: _haiku("ResNet50", True), None, {"stem.padding": "same"}),
    "flaxmodels ResNet18": (lambda: _flaxmodels("ResNet18"), "torchvision/resnet18", {}),
    "flaxmodels ResNet50": (lambda: _flaxmodels("ResNet50"), "torchvision/resnet50", {}),
    "jax-resnet ResNet18": (lambda: _jax_resnet("ResNet18"), "torchvision/resnet18", {}),
    "jax-resnet ResNet50": (lambda: _jax_resnet("ResNet50"), "torchvision/resnet50", {}),
    "jax-resnet ResNeXt50": (lambda: _jax_resnet("ResNeXt50"), "torchvision/resnext50_32x4d", {}),
    "keras ResNet50": (lambda: _application("ResNet50"), "keras/resnet50", {}),
    "keras ResNet101": (lambda: _application("ResNet101"), "keras/resnet101", {}),
    "keras ResNet50V2": (lambda: _application("ResNet50V2"), "keras/resnet50v2", {}),
    "keras-hub ResNet18": (lambda: _hub([2, 2, 2, 2], "basic_block"), "torchvision/resnet18", {}),
    "keras-hub ResNet50 V2": (
        lambda: _hub([3, 4, 6, 3], "bottleneck_block", v2=True),
        "timm/resnetv2_50",
        {},
    ),
    "keras-hub ResNet50 vd": (
        lambda: _hub([3, 4, 6, 3], "bottleneck_block_vd", deep=True),
        "timm/resnet50d",
        {},
    ),
}
SHORT = {"keras ResNet50V2"}


@pytest.mark.parametrize("name", rest_in_zoo(ORACLES, SHORT))
def test_other_people_s_networks_are_what_they_say(name: str) -> None:
    make, preset, fields = ORACLES[name]
    found = identify(make())
    assert (found.verdict, found.image_sizes) == ("same model", [224, 225])
    assert found.recognised, found.evidence
    assert found.preset == preset
    assert found.spec is not None
    for field, value in fields.items():
        group, _, leaf = field.partition(".")
        assert getattr(getattr(found.spec, group), leaf) == value


@pytest.mark.zoo
def test_a_network_that_takes_one_size_is_told_so() -> None:
    """jax-resnet's average pool floors what its branch ceils."""
    found = identify(_jax_resnet("ResNetD50"))
    assert (found.verdict, found.image_sizes) == ("at this size only", [224])
    assert [note for note in found.notes if "224 x 224 pixels alone" in note]


@pytest.mark.zoo
def test_what_departs_is_named() -> None:
    """image-classifiers' networks normalise the image inside the network."""
    pytest.importorskip("keras_applications")
    models = pytest.importorskip("classification_models.keras")
    make, _ = models.Classifiers.get("resnet18")
    found = identify(_keras(make((224, 224, 3), weights=None)))
    assert found.verdict == "departs"
    assert [(d.where, d.what, d.theirs) for d in found.departures] == [
        ("bn_data", "extra", "BatchNorm (eps 2e-05)")
    ]


@pytest.mark.zoo
@pytest.mark.parametrize("name", ["MobileNetV2", "VGG16", "DenseNet121"])
def test_what_is_no_resnet_is_none(name: str) -> None:
    keras = pytest.importorskip("keras")
    found = identify(getattr(keras.applications, name)(weights=None))
    assert not found.recognised
    assert found.verdict in ("no ResNet", "departs")
    assert found.preset is None
