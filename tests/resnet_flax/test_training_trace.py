"""What a trace of training in Flax records: the arrays of the contract, and gradients that are
right.
"""

from __future__ import annotations

import numpy as np
import pytest

jax = pytest.importorskip("jax")
nnx = pytest.importorskip("flax.nnx")
pytest.importorskip("optax")

import jax.numpy as jnp

import resnet_flax
from resnet_flax.model import ResNet
from resnet_flax.train import cross_entropy, in_training, layer_by_layer
from shared import SpecError, Trace, make_plan, probe_weights
from shared.training.config import PROBE, Training
from shared.verification.recording import CHECKS
from tests.flax_models import BIASED, FROZEN, UNBIASED, loaded
from tests.training_probes import batch_for, expected_arrays, masks_for

pytestmark = pytest.mark.usefixtures("x64")

# Float64, the loss of a trace and of its weights anew, layer by layer. Measured: the same bits.
SAME_LIMIT = 1e-12

# A gradient against central differences of width 1e-6, relative to the tensor's largest. Measured:
# 3.8e-8.
DIFFERENCE_LIMIT = 1e-6

# Blocks of each stage: XLA takes its time for every layer that is new.
SAMPLES = {
    "torchvision/resnet18": (1, 1),
    "keras/resnet50v2": (1,),  # biases
    "cifar/preresnet20": (1, 1),
    "bit/r50x1": (1,),  # group norm, weight standardisation
    "fb/preresnet18": (1, 1),
    "ablation/resnet110_dropout_shortcut": (1, 1),
    "ablation/resnet110_exclusive_gate_b6": (1, 1),
}


@pytest.mark.parametrize(
    ("preset", "training"), [*((preset, PROBE) for preset in SAMPLES), (BIASED, FROZEN)]
)
def test_a_trace_is_whole_and_right_and_leaves_the_model_as_it_was(
    preset: str, training: Training
) -> None:
    """One test of three things, because XLA takes most of its time for the same programs in all of
    them.
    """
    model = loaded(preset, depths=SAMPLES[preset])  # its dropouts draw, but where they have masks
    images, labels = batch_for(model.spec)
    before, state = nnx.graphdef(model), values_of(model)
    trace = resnet_flax.trace(model, images, checks=CHECKS[::-1], training=training)
    assert nnx.graphdef(model) == before
    assert all(np.array_equal(a, b) for a, b in zip(values_of(model), state, strict=True))
    assert [(name, trace.shape(name)) for name in trace.names] == expected_arrays(
        model.spec, CHECKS, training
    )
    assert {trace[name].dtype.name for name in trace.names} == {"float64"}
    assert all(np.isfinite(trace[name]).all() for name in trace.names)
    assert {"training", "labels"} <= trace.about.keys()
    with jax.default_matmul_precision("highest"):  # or all is compiled once more
        assert_gradients_are_differences(trace, model, images, labels, training)


def values_of(model: ResNet) -> list[np.ndarray]:
    """All arrays, the random keys of dropouts among them."""
    leaves = jax.tree.leaves(nnx.state(model))
    keys = [jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in leaves]
    return [
        np.array(jax.random.key_data(a) if key else a) for a, key in zip(leaves, keys, strict=True)
    ]


def assert_gradients_are_differences(
    trace: Trace, model: ResNet, images: np.ndarray, labels: np.ndarray, training: Training
) -> None:
    """At two random places of a random tensor of every kind, and of the images."""
    weights, rng = probe_weights(model.spec, dtype="float64"), np.random.default_rng(1)
    masks = {name: jnp.asarray(mask) for name, mask in masks_for(model.spec).items()}

    def loss() -> float:
        resnet_flax.load_weights(model, weights)
        logits = layer_by_layer(in_training(model, training, masks))(jnp.array(images))
        return float(cross_entropy(logits, jnp.asarray(labels), training.label_smoothing))

    kinds: dict[str, list[str]] = {}
    for name in training.trainable(make_plan(model.spec)):
        layer, _, leaf = name.rpartition(".")
        kinds.setdefault(f"{layer.rpartition('.')[2].rstrip('123')}.{leaf}", []).append(name)
    names = [kind[rng.integers(len(kind))] for kind in kinds.values()]
    for name, values in [*((name, weights[name]) for name in names), ("input", images)]:
        gradient = trace[f"grad/{name}"]
        for _ in range(2):
            place, losses = tuple(int(rng.integers(n)) for n in values.shape), []
            kept = values[place]
            for width in (1e-6, -1e-6):
                values[place] = kept + width
                losses.append(loss())
            values[place] = kept
            difference = (losses[0] - losses[1]) / 2e-6
            # A convolution's bias in front of a batch norm has the gradient 0.
            assert abs(difference - gradient[place]) <= DIFFERENCE_LIMIT * max(
                np.abs(gradient).max(), 1e-2
            ), name
    assert loss() == pytest.approx(float(trace["loss"]), rel=SAME_LIMIT)


def test_labels_make_the_trace() -> None:
    model = loaded(UNBIASED, depths=(1,))
    images, labels = batch_for(model.spec)
    default, given, other = (
        resnet_flax.trace(model, images, y, checks=("gradients",))
        for y in (None, labels, (labels + 1) % 10)
    )
    assert given["loss"] == default["loss"] != other["loss"]
    assert given.about["labels"] == default.about["labels"] != other.about["labels"]
    assert "labels" not in resnet_flax.trace(model, images).about


def test_unknown_checks_are_refused() -> None:
    model = loaded(UNBIASED, depths=(1,))
    with pytest.raises(SpecError, match="unknown check"):
        resnet_flax.trace(model, batch_for(model.spec)[0], checks=("backward",))


def test_half_precisions_are_widened_in_a_trace() -> None:
    model = loaded(UNBIASED, "bfloat16", depths=(1,))
    trace = resnet_flax.trace(model, batch_for(model.spec)[0], checks=("train",))
    assert trace.dtype == "bfloat16"
    assert {trace[name].dtype.name for name in trace.names} == {"float32"}
