"""Which layers are Keras' own, and which are corrected."""

from __future__ import annotations

import pytest

keras = pytest.importorskip("keras")

import resnet_keras
from resnet_keras import corrected
from resnet_keras.corrected import layer_class
from tests.probes import small

OURS = (
    corrected.BatchNormalization,
    corrected.Conv2D,
    corrected.Dense,
    corrected.GlobalAveragePooling2D,
    corrected.GroupNormalization,
)


@pytest.mark.parametrize("ours", OURS, ids=lambda ours: ours.__name__)
def test_weights_files_name_both_classes_alike(ours: type) -> None:
    assert issubclass(ours, getattr(keras.layers, ours.__name__))


@pytest.mark.parametrize(
    ("backend", "dtype", "corrects", "is_ours"),
    [
        ("tensorflow", "float64", False, False),
        ("tensorflow", "float32", True, True),
        ("jax", "float32", False, False),
        ("jax", "mixed_bfloat16", False, False),
        ("jax", "float64", False, True),
        ("torch", "float32", False, True),
    ],
)
def test_ours_where_it_is_needed(
    monkeypatch: pytest.MonkeyPatch, backend: str, dtype: str, corrects: bool, is_ours: bool
) -> None:
    monkeypatch.setattr(keras.backend, "backend", lambda: backend)
    for ours in OURS:
        assert (layer_class(ours, dtype, corrects=corrects) is ours) == is_ours


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="names with dots")
@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("flax/resnet50", set()),
        ("timm/resnet50_gn", {"InfinityPadding2D"}),
        ("torchvision/resnet18", {"BatchNormalization", "InfinityPadding2D"}),
        ("bit/r50x1", {"Conv2D"}),
    ],
)
def test_what_is_not_keras_own_in_a_network(name: str, kinds: set[str]) -> None:
    layers = resnet_keras.build(small(name)).layers
    assert {
        type(layer).__name__ for layer in layers if not type(layer).__module__.startswith("keras.")
    } == kinds


def test_a_clone_of_corrected_layers_is_corrected() -> None:
    model = resnet_keras.build(small("torchvision/resnet18"))
    clone = keras.models.clone_model(model)
    assert [type(layer) for layer in clone.layers] == [type(layer) for layer in model.layers]
    assert clone.get_layer("stem.norm1").unbiased
