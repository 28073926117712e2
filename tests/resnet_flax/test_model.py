"""The Flax rendering: the reference's numbers layer by layer, weights bit for bit, and NNX's own
tools.
"""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

jax = pytest.importorskip("jax")
nnx = pytest.importorskip("flax.nnx")
optax = pytest.importorskip("optax")

import jax.numpy as jnp

import resnet_flax
from resnet_flax.layers import get_layer
from resnet_flax.model import ResNet
from shared import CheckpointError, FrameworkError, ResNetSpec, get_spec, make_plan, probe_weights
from shared.architecture import ops
from shared.architecture.presets import miniature
from tests.probes import (
    SIZE,
    images_for,
    reference_trace,
    relative_error,
    same_weights,
    worst_layer,
)

pytestmark = pytest.mark.usefixtures("x64")

# Float64 against the float64 reference, worst layer of all presets at 32 x 32 and 45 x 45.
# Measured: 2.2e-14.
LAYER_LIMIT = 1e-12

# Float64, the same function written in two ways (jit and eager). Measured: at most 6.0e-16.
SAME_LIMIT = 1e-13

# Standard deviation of fresh weights against the stated one; the smallest sample has 4000 values.
INIT_TOLERANCE = 0.05

# Between them every layer of the plan, and every way to pad (see the test below).
SAMPLES = [
    "torchvision/resnext50_32x4d",
    "flax/resnet50",
    "keras/resnet50v2",
    "timm/resnetv2_50d_gn",
    "bit/r50x1",
    "cifar/resnet20",
    "ablation/resnet110_exclusive_gate_b6",
    "ablation/resnet110_norm_after_add",
]


def loaded(spec: ResNetSpec, dtype: str = "float64") -> ResNet:
    """The rendering of `spec` with its probe weights."""
    model = resnet_flax.build(spec, dtype=dtype)
    resnet_flax.load_weights(model, probe_weights(spec, dtype=dtype))
    return model


def sample(preset: str) -> ResNetSpec:
    """A miniature of two stages, of two blocks each: every layer that the preset has, but for
    dilated ones.
    """
    return miniature(get_spec(preset)).replace(depths=(2, 2))


def small_spec(**changes: object) -> ResNetSpec:
    """Two stages of one bottleneck each, with and without a projection stride."""
    return miniature(get_spec("torchvision/resnet50")).replace(depths=(1, 1), **changes)


def assert_is_the_reference(spec: ResNetSpec, size: tuple[int, int] = SIZE) -> None:
    error, layer = worst_layer(
        resnet_flax.trace(loaded(spec), images_for(spec, size)), reference_trace(spec, size)
    )
    assert error <= LAYER_LIMIT, layer


@pytest.mark.parametrize("preset", SAMPLES)
def test_every_layer_is_the_references(preset: str) -> None:
    assert_is_the_reference(sample(preset))


VARIANTS = {
    "dilated-avg-pool": ("timm/resnet50d", {"dilate": (False, True), "depths": (1, 1)}),
    "dilated-same": (
        "torchvision/resnet50",
        {"dilate": (False, True), "depths": (1, 1), "block.padding": "same"},
    ),
    "feature-map": (
        "torchvision/resnet18",
        {"num_classes": 0, "head.pool": "none", "depths": (1, 1)},
    ),
    "max-pool": ("torchvision/resnet18", {"head.pool": "max", "depths": (1, 1)}),
    "biases": (
        "torchvision/resnet50",
        {"stem.bias": True, "block.bias": True, "shortcut.bias": True, "depths": (1,)},
    ),
    "dropout": ("ablation/resnet110_dropout_shortcut", {"depths": (1, 1)}),
}


@pytest.mark.parametrize(("preset", "changes"), VARIANTS.values(), ids=VARIANTS)
def test_variants_are_the_references(preset: str, changes: dict) -> None:
    assert_is_the_reference(miniature(get_spec(preset)).replace(**changes), (13, 10))


def test_samples_and_variants_cover_every_layer() -> None:
    specs = [sample(name) for name in SAMPLES] + [
        miniature(get_spec(p)).replace(**c) for p, c in VARIANTS.values()
    ]
    found = {node.op for spec in specs for node in make_plan(spec).nodes()}
    assert {type(op) for op in found} >= {
        ops.Conv,
        ops.BatchNorm,
        ops.GroupNorm,
        ops.MaxPool,
        ops.AvgPool,
        ops.Subsample,
        ops.Dropout,
        ops.Merge,
        ops.GlobalPool,
        ops.Linear,
    }
    assert {op.padding for op in found if isinstance(op, ops.MaxPool)} == {
        "symmetric",
        "zero",
        "same",
    }
    assert {op.count_pad for op in found if isinstance(op, ops.AvgPool)} == {False, True}
    convs = {op for op in found if isinstance(op, ops.Conv)}
    assert any(op.groups > 1 for op in convs)
    assert any(op.weight_std_eps for op in convs)
    assert any(op.padding == "same" and op.stride == 2 and op.kernel_size == 3 for op in convs)


def test_trace_is_in_the_order_of_the_plan() -> None:
    spec = small_spec()
    trace = resnet_flax.trace(loaded(spec), images_for(spec))
    rows = make_plan(spec, SIZE).layers
    assert trace.names == [*(f"eval/{row.name}" for row in rows), "eval/output"]
    assert [trace.shape(f"eval/{row.name}") for row in rows] == [(2, *row.output) for row in rows]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_trace_widens_half_precision(dtype: str) -> None:
    spec = small_spec().replace(depths=(1,))
    trace = resnet_flax.trace(loaded(spec, dtype), images_for(spec))
    assert trace.dtype == dtype
    assert {trace[name].dtype.name for name in trace.names} == {"float32"}


def test_trace_leaves_the_model_as_it_was() -> None:
    spec = small_spec()
    model = loaded(spec)
    model.stem.eval()  # as somebody does who freezes statistics
    before = nnx.graphdef(model)
    resnet_flax.trace(model, images_for(spec))
    assert nnx.graphdef(model) == before
    assert same_weights(resnet_flax.export_weights(model), probe_weights(spec, dtype="float64"))


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("preset", SAMPLES)
def test_weights_come_back_bit_for_bit(preset: str, dtype: str) -> None:
    spec = sample(preset)
    weights = probe_weights(spec, dtype=dtype)
    found = resnet_flax.export_weights(loaded(spec, dtype))
    assert list(found) == list(make_plan(spec).tensors)
    assert same_weights(found, weights)
    assert all(array.flags.owndata and array.flags.writeable for array in found.values())


def test_weights_are_copied_both_ways() -> None:
    """JAX goes on using NumPy's memory where it can."""
    spec = small_spec(num_classes=1000)
    weights = probe_weights(spec)
    model = resnet_flax.build(spec)
    resnet_flax.load_weights(model, weights)
    for arrays in (weights, resnet_flax.export_weights(model)):
        for array in arrays.values():
            array[:] = 7.0
    assert same_weights(resnet_flax.export_weights(model), probe_weights(spec))


REFUSED = {
    "missing": lambda w: w.pop("head.bias"),
    "unexpected": lambda w: w.update({"head.scale": w["head.bias"]}),
    "mis-shaped": lambda w: w.update({"head.bias": w["head.bias"][:-1]}),
    "not-finite": lambda w: w.update({"head.bias": w["head.bias"] * np.inf}),
    "integer": lambda w: w.update({"head.bias": w["head.bias"].astype(int)}),
    "negative-variance": lambda w: w.update(
        {"stem.norm1.running_var": -w["stem.norm1.running_var"]}
    ),
    "not-exact": lambda w: w.update({"head.bias": w["head.bias"].astype(np.float64) + 1e-12}),
}


@pytest.mark.parametrize("damage", REFUSED.values(), ids=REFUSED)
def test_a_refused_load_leaves_the_model_unchanged(damage) -> None:
    spec = small_spec()
    model = resnet_flax.build(spec, seed=3)
    before = resnet_flax.export_weights(model)
    weights = probe_weights(spec)
    damage(weights)
    with pytest.raises(CheckpointError, match=r"head|stem\.norm1"):
        resnet_flax.load_weights(model, weights)
    assert same_weights(resnet_flax.export_weights(model), before)


def test_float64_is_refused_where_jax_has_none() -> None:
    spec = small_spec()
    model = loaded(spec)
    with jax.enable_x64(False):
        with pytest.raises(FrameworkError, match="JAX_ENABLE_X64"):
            resnet_flax.build(spec, dtype="float64")
        with pytest.raises(FrameworkError, match="JAX_ENABLE_X64"):
            resnet_flax.load_weights(model, probe_weights(spec, dtype="float64"))
        with pytest.raises(FrameworkError, match="JAX_ENABLE_X64"):
            resnet_flax.trace(model, images_for(spec))


def test_importing_changes_no_flag_of_jax() -> None:
    script = (
        "import jax; before = dict(jax.config.values); import resnet_flax; assert "
        "dict(jax.config.values) == before"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("preset", SAMPLES)
def test_attribute_paths_are_the_canonical_names(preset: str) -> None:
    spec = sample(preset)
    state = nnx.to_flat_state(nnx.state(resnet_flax.build(spec), (nnx.Param, nnx.BatchStat)))
    found = {".".join(map(str, path[:-1])) for path, _ in state}
    assert found == {name.rpartition(".")[0] for name in make_plan(spec).tensors}


def test_split_and_merge_round_trip() -> None:
    spec = small_spec()
    model = loaded(spec)
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    assert {type(v) for _, v in nnx.to_flat_state(params)} == {nnx.Param}
    assert same_weights(
        resnet_flax.export_weights(nnx.merge(graphdef, params, rest)),
        resnet_flax.export_weights(model),
    )
    other = resnet_flax.build(spec, dtype="float64")
    nnx.update(other, nnx.state(model))
    assert same_weights(resnet_flax.export_weights(other), resnet_flax.export_weights(model))


@pytest.mark.parametrize(
    ("preset", "graph"),
    [
        ("torchvision/resnet50", True),
        ("bit/r50x1", False),
        ("ablation/resnet110_dropout_shortcut", False),
    ],
    ids=["resnet50-graph", "bit-tree", "dropout-tree"],
)
def test_jit_is_eager(preset: str, graph: bool) -> None:
    spec = sample(preset).replace(depths=(1,))
    images = images_for(spec)
    with nnx.set_graph_mode(graph), nnx.set_graph_updates(graph):
        model = loaded(spec)
        model.eval()
        found = nnx.jit(lambda model, x: model(x))(model, images)
        assert relative_error(np.asarray(found), np.asarray(model(images))) <= SAME_LIMIT


@pytest.mark.parametrize(
    ("dtype", "graph"),
    [("float64", False), ("bfloat16", True)],
    ids=["float64-tree", "bfloat16-graph"],
)
def test_a_training_step_changes_every_parameter_and_statistic(dtype: str, graph: bool) -> None:
    spec = small_spec().replace(depths=(1,))
    images, labels = jnp.asarray(images_for(spec), dtype), jnp.array([3, 7])
    with nnx.set_graph_mode(graph), nnx.set_graph_updates(graph):
        model = loaded(spec, dtype)
        graphdef, params, rest = nnx.split(model, nnx.Param, ...)

        def loss_of(params):
            model = nnx.merge(graphdef, params, rest, copy=True)
            loss = optax.softmax_cross_entropy_with_integer_labels(model(images), labels).mean()
            return loss, nnx.state(model, nnx.BatchStat)

        gradients, statistics = jax.jit(jax.grad(loss_of, has_aux=True))(params)
        nnx.update(
            model, jax.tree.map(lambda value, slope: value - slope, params, gradients), statistics
        )
        after = resnet_flax.export_weights(model)
    before = probe_weights(spec, dtype=dtype)
    assert {array.dtype.name for array in after.values()} == {dtype}
    assert [name for name in before if np.array_equal(before[name], after[name])] == []


def test_value_and_grad_updates_in_place() -> None:
    """The step as Flax's own guides write it."""
    spec = small_spec().replace(depths=(1,))
    model = loaded(spec)
    model.train()
    optimizer = nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)
    images, before = jnp.asarray(images_for(spec)), resnet_flax.export_weights(model)

    @nnx.jit
    def step(model, optimizer):
        loss, gradients = nnx.value_and_grad(lambda model: (model(images) ** 2).mean())(model)
        optimizer.update(model, gradients)
        return loss

    first = step(model, optimizer)
    assert step(model, optimizer) < first
    after = resnet_flax.export_weights(model)
    assert [name for name in before if np.array_equal(before[name], after[name])] == []


def test_shortcut_dropout_drops_only_in_training() -> None:
    spec = miniature(get_spec("ablation/resnet110_dropout_shortcut")).replace(depths=(1,))
    model, images = loaded(spec), jnp.asarray(images_for(spec))
    run = nnx.jit(lambda model: model(images))
    assert not np.array_equal(run(model), run(model))
    model.eval()
    assert np.array_equal(run(model), run(model))


def test_a_seed_draws_the_same_weights() -> None:
    spec = small_spec()
    first, again, other = (
        resnet_flax.export_weights(resnet_flax.build(spec, seed=s)) for s in (1, 1, 2)
    )
    assert same_weights(first, again)
    kernels = [name for name, array in first.items() if array.ndim > 1]
    assert [name for name in kernels if np.array_equal(first[name], other[name])] == []


def test_fresh_models_train() -> None:
    model = resnet_flax.build(small_spec())
    assert not get_layer(model, "stem.norm1").use_running_average


# An initialiser's name -> its standard deviation, from fan in and fan out.
CONV_STD = {
    "kaiming_normal_fan_out": lambda fan_in, fan_out: (2 / fan_out) ** 0.5,
    "kaiming_normal_fan_in": lambda fan_in, fan_out: (2 / fan_in) ** 0.5,
    "he_normal_truncated": lambda fan_in, fan_out: (2 / fan_in) ** 0.5,
    "glorot_uniform": lambda fan_in, fan_out: (2 / (fan_in + fan_out)) ** 0.5,
    "lecun_normal": lambda fan_in, fan_out: (1 / fan_in) ** 0.5,
    "torch_default": lambda fan_in, fan_out: (1 / (3 * fan_in)) ** 0.5,
}
HEAD_STD = {
    **{
        name: CONV_STD[name]
        for name in ("torch_default", "glorot_uniform", "lecun_normal", "kaiming_normal_fan_in")
    },
    "normal_0.01": lambda fan_in, fan_out: 0.01,
    "zeros": lambda fan_in, fan_out: 0.0,
}


def fresh(**init: object) -> dict[str, np.ndarray]:
    """Fresh weights of a small net with biases and 64 features."""
    spec = small_spec().replace(widths=(16, 16), num_classes=200)
    biases = {"stem_bias": True, "block_bias": True, "shortcut_bias": True}
    return resnet_flax.export_weights(resnet_flax.build(spec.replace(**biases, **init)))


@pytest.mark.parametrize("name", CONV_STD)
def test_initialisers_of_convolutions(name: str) -> None:
    weights = fresh(init_conv=name)
    for conv, fan_in, fan_out in (("conv2", 9 * 16, 9 * 16), ("conv3", 16, 64)):
        kernels = np.concatenate(
            [weights[f"stages.{i}.blocks.0.{conv}.weight"].ravel() for i in (0, 1)]
        )
        assert kernels.std() == pytest.approx(CONV_STD[name](fan_in, fan_out), rel=INIT_TOLERANCE)


@pytest.mark.parametrize("name", HEAD_STD)
def test_initialisers_of_the_head(name: str) -> None:
    assert fresh(init_head=name)["head.weight"].std() == pytest.approx(
        HEAD_STD[name](64, 200), rel=INIT_TOLERANCE
    )


@pytest.mark.parametrize("name", ["he_normal_truncated", "lecun_normal"])
def test_truncated_initialisers_are_cut_at_two_sigma(name: str) -> None:
    kernel = fresh(init_conv=name)["stages.0.blocks.0.conv2.weight"]
    cut = 2 / 0.87962566103423978  # the deviation of the normal before the cut
    assert np.abs(kernel).max() <= cut * CONV_STD[name](144, 144) * (1 + 1e-6)


@pytest.mark.parametrize(
    ("name", "bound"), [("glorot_uniform", 0.0), ("torch_default", 1 / 144**0.5)]
)
def test_initial_biases(name: str, bound: float) -> None:
    weights = fresh(init_conv=name)
    biases = np.stack([weights[f"stages.{i}.blocks.0.conv2.bias"] for i in (0, 1)])
    assert 0.9 * bound <= np.abs(biases).max() <= bound


@pytest.mark.parametrize("zero", [False, True])
def test_zero_initialised_residual_branches(zero: bool) -> None:
    weights = fresh(init_zero_residual=zero)
    gammas = {name: a for name, a in weights.items() if name.endswith("weight") and a.ndim == 1}
    zeros = {name for name, gamma in gammas.items() if not gamma.any()}
    assert zeros == ({name for name in gammas if name.endswith(".norm3.weight")} if zero else set())
    assert all((gamma == 1).all() for name, gamma in gammas.items() if name not in zeros)


@pytest.mark.parametrize("bias", [0.0, -6.0])
def test_initial_bias_of_gates(bias: float) -> None:
    spec = miniature(get_spec("ablation/resnet110_exclusive_gate_b0", init_gate_bias=bias))
    weights = resnet_flax.export_weights(resnet_flax.build(spec))
    assert {float(v) for name, a in weights.items() if name.endswith("gate.bias") for v in a} == {
        bias
    }
