"""The Flax rendering: the reference's numbers layer by layer, weights bit for bit, and NNX's own
tools.
"""

from __future__ import annotations

import itertools
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
from shared import (
    CheckpointError,
    FrameworkError,
    ResNetSpec,
    SpecError,
    get_spec,
    make_plan,
    probe_weights,
)
from shared.architecture import ops
from shared.architecture.presets import miniature
from shared.training.config import PROBE
from shared.weights.initial import initial_weights
from tests.probes import (
    SIZE,
    images_for,
    reference_trace,
    relative_error,
    same_weights,
    worst_layer,
)
from tests.zoo import in_zoo, rest_in_zoo

pytestmark = pytest.mark.usefixtures("x64")

# Float64 against the float64 reference, worst layer of all presets at 32 x 32 and 45 x 45.
# Measured: 2.2e-14.
LAYER_LIMIT = 1e-12

# Float64, the same function written in two ways (jit and eager). Measured: at most 6.0e-16.
SAME_LIMIT = 1e-13

# Logits of bfloat16 computation with float32 weights, against float32. Measured: 0.010.
HALF_LIMIT = 0.03

DTYPES = ("float64", "float32", "float16", "bfloat16")

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


# Few in the short run: `tests/parity` compares every kind of layer there.
@pytest.mark.parametrize("preset", rest_in_zoo(SAMPLES, SAMPLES[2::5]))
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


@pytest.mark.parametrize("dtype", [in_zoo("float16"), "bfloat16"])
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


@pytest.mark.parametrize(
    ("preset", "dtype"),
    rest_in_zoo(
        itertools.product(SAMPLES, DTYPES),
        [(preset, DTYPES[i % len(DTYPES)]) for i, preset in enumerate(SAMPLES)],
    ),
)
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
        in_zoo(("torchvision/resnet50", True)),
        in_zoo(("bit/r50x1", False)),
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
    [("float64", False), in_zoo(("bfloat16", True))],
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


def test_fresh_models_train() -> None:
    model = resnet_flax.build(small_spec())
    assert not get_layer(model, "stem.norm1").use_running_average


def test_build_under_eval_shape_makes_shapes() -> None:
    """How a checkpoint is restored into a model that does not exist yet."""
    spec = small_spec()
    abstract = nnx.eval_shape(lambda: resnet_flax.build(spec))
    leaves = jax.tree.leaves(nnx.state(abstract, (nnx.Param, nnx.BatchStat)))
    assert {type(leaf) for leaf in leaves} == {jax.ShapeDtypeStruct}
    model = loaded(spec, "float32")
    graphdef, state = nnx.split(abstract)
    merged = nnx.merge(graphdef, nnx.state(model))
    assert jax.tree.map(lambda leaf: leaf.shape, state) == jax.tree.map(
        lambda leaf: leaf.shape, nnx.state(model)
    )
    assert same_weights(resnet_flax.export_weights(merged), probe_weights(spec))


@pytest.mark.parametrize("preset", ["cifar/resnet20", "ablation/resnet110_dropout_shortcut"])
def test_build_under_jit_is_build(preset: str) -> None:
    """How a model is made on the devices where it is to be."""
    spec = sample(preset).replace(depths=(1,))
    model = nnx.jit(lambda: resnet_flax.build(spec, seed=3))()
    assert same_weights(resnet_flax.export_weights(model), initial_weights(spec, 3))
    assert nnx.graphdef(model) == nnx.graphdef(resnet_flax.build(spec, seed=3))


@pytest.mark.parametrize(
    "dtype", [jnp.float16, np.float16, np.dtype("float16"), jnp.dtype("float16"), "float16"]
)
def test_dtypes_are_names_or_objects(dtype: object) -> None:
    model = resnet_flax.build(small_spec(), dtype=dtype)
    state = nnx.state(model, (nnx.Param, nnx.BatchStat))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(state)} == {"float16"}


@pytest.mark.parametrize("name", ["dtype", "param_dtype"])
@pytest.mark.parametrize("dtype", ["float", jnp.int32])
def test_another_dtype_is_refused(dtype: object, name: str) -> None:
    with pytest.raises(SpecError, match=r"dtype = .*must be one of float64, float32"):
        resnet_flax.build(small_spec(), **{name: dtype})


@pytest.mark.parametrize("preset", ["cifar/resnet20", in_zoo("bit/r50x1")])
def test_bfloat16_computation_with_float32_weights(preset: str) -> None:
    spec = sample(preset).replace(depths=(1,))
    weights, images = probe_weights(spec), images_for(spec, (16, 16), "float32")
    model = resnet_flax.build(spec, dtype="bfloat16", param_dtype="float32")
    resnet_flax.load_weights(model, weights)
    assert same_weights(resnet_flax.export_weights(model), weights)
    trace, exact = (resnet_flax.trace(m, images).arrays for m in (model, loaded(spec, "float32")))
    assert 0 < relative_error(trace["eval/output"], exact["eval/output"]) <= HALF_LIMIT


def test_training_in_bfloat16_with_float32_weights() -> None:
    spec = sample("cifar/resnet20").replace(depths=(1,))
    weights, images = probe_weights(spec), images_for(spec, (16, 16), "float32")
    model = resnet_flax.build(spec, dtype=jnp.bfloat16, param_dtype=jnp.float32)
    resnet_flax.load_weights(model, weights)
    found = resnet_flax.trace(model, images, checks=("train",))
    assert found.dtype == "bfloat16"
    assert np.array_equal(found["train/output"].astype("bfloat16"), found["train/output"])
    trainer = resnet_flax.Trainer(model, PROBE)
    trainer.step(images, np.array([1, 2]), 1e-4)
    after = trainer.weights()
    assert {array.dtype.name for array in after.values()} == {"float32"}
    assert [name for name in weights if np.array_equal(weights[name], after[name])] == []


def test_float64_weights_are_refused_where_jax_has_none() -> None:
    with jax.enable_x64(False), pytest.raises(FrameworkError, match="JAX_ENABLE_X64"):
        resnet_flax.build(small_spec(), param_dtype="float64")
