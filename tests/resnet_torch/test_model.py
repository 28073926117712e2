"""The PyTorch rendering: the reference's numbers layer by layer, weights bit for bit, and PyTorch's
own tools.
"""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import resnet_torch
from resnet_torch.model import ResNet
from shared import (
    CheckpointError,
    ResNetSpec,
    get_spec,
    make_plan,
    probe_weights,
    read_weights,
    save_weights,
)
from shared.architecture.presets import miniature
from tests.parity.structures import COVERING, STRUCTURES
from tests.probes import DISTINCT, SIZE, images_for, reference_trace, same_weights, worst_layer
from tests.zoo import rest_in_zoo

# Float64 against the float64 reference, worst layer of any preset. Measured by this file: 9.7e-15.
LAYER_LIMIT = 1e-12

# Float32 logits of the same net, compiled or exported, against eager. Measured: 0.
COMPILED_LIMIT = 1e-6

COUNTER = "num_batches_tracked"

SAMPLES = [
    "torchvision/resnet18",
    "torchvision/resnext50_32x4d",
    "flax/resnet50",
    "keras/resnet50v2",
    "timm/resnetv2_50d_gn",
    "bit/r50x1",
    "cifar/resnet20",
    "ablation/resnet110_exclusive_gate_b6",
]


def loaded(spec: ResNetSpec, dtype: str = "float64") -> ResNet:
    """The rendering of `spec` with its probe weights."""
    model = resnet_torch.build(spec, dtype=dtype)
    resnet_torch.load_weights(model, probe_weights(spec, dtype=dtype))
    return model


def assert_is_the_reference(spec: ResNetSpec, size: tuple[int, int] = SIZE) -> None:
    error, layer = worst_layer(
        resnet_torch.trace(loaded(spec), images_for(spec, size)), reference_trace(spec, size)
    )
    assert error <= LAYER_LIMIT, layer


# A part in the short run: `tests/parity` compares every kind of layer there.
@pytest.mark.parametrize("preset", rest_in_zoo(DISTINCT, DISTINCT[::5]))
def test_every_layer_is_the_references(preset: str) -> None:
    assert_is_the_reference(miniature(get_spec(preset)))


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (33, 31)], ids=str)
@pytest.mark.parametrize(
    "preset", ["torchvision/resnet18", "timm/resnet50d", "flax/resnet50", "keras/resnet50v2"]
)
def test_every_layer_is_the_references_at_any_size(preset: str, size: tuple[int, int]) -> None:
    assert_is_the_reference(miniature(get_spec(preset)), size)


# Fields that no preset sets, or not in this company.
VARIANTS = {
    "no-classifier-no-pool": {"num_classes": 0, "head.pool": "none"},
    "no-classifier-avg": {"num_classes": 0, "head.pool": "avg"},
    "no-classifier-max": {"num_classes": 0, "head.pool": "max"},
    "max-pool": {"head.pool": "max"},
    "one-channel": {"in_channels": 1},
    "five-channels": {"in_channels": 5},
    "dilate-last": {"dilate": (False, False, False, True)},
    "dilate-last-two": {"dilate": (False, False, True, True)},
    "dilate-all": {"dilate": (False, True, True, True)},
    "group-norm": {"norm.kind": "group", "norm.groups": 2},
    "same-stem": {"stem.padding": "same"},
    "same-everywhere": {
        "stem.padding": "same",
        "stem.pool_padding": "same",
        "block.padding": "same",
    },
    "dilate-same": {"dilate": (False, False, True, True), "block.padding": "same"},
    "weight-standardised": {"weight_std_eps": 1e-5},
    "no-stem-pool": {"stem.pool": "none"},
    "biases": {
        "stem.bias": True,
        "block.bias": True,
        "block.last_bias": True,
        "shortcut.bias": True,
    },
    "one-stage": {"depths": (2,)},
    "stride-3": {"strides": (1, 3, 2, 1), "shortcut.pool": "none"},
    "last-block-strides": {"block.stride_block": "last"},
    "stage-entry-preact": {"shortcut.preact": "stage_entry"},
    "raw-shortcuts": {"shortcut.preact": "never"},
}


VARIED = ("torchvision/resnet18", "timm/resnet50d", "timm/resnetv2_50")
# Each in one of them by turns, and what concerns pre-activation in the one that has it.
VARIANTS_SHORT = {
    (VARIED[2 if "preact" in str(changes) else i % 3], variant)
    for i, (variant, changes) in enumerate(VARIANTS.items())
}


@pytest.mark.parametrize(
    ("preset", "variant"), rest_in_zoo([*itertools.product(VARIED, VARIANTS)], VARIANTS_SHORT)
)
def test_variants_are_the_references(preset: str, variant: str) -> None:
    assert_is_the_reference(miniature(get_spec(preset)).replace(**VARIANTS[variant]))


@pytest.mark.parametrize("groups", [1, 2, 4, 8])
def test_groups_are_the_references(groups: int) -> None:
    assert_is_the_reference(
        miniature(get_spec("torchvision/resnet50")).replace(block_groups=groups)
    )


@pytest.mark.parametrize(
    "preset", ["torchvision/resnet50", "keras/resnet50v2", "timm/resnet50d", "cifar/preresnet20"]
)
def test_trace_shapes_are_the_plans(preset: str) -> None:
    spec = miniature(get_spec(preset))
    trace = resnet_torch.trace(loaded(spec), images_for(spec))
    rows = make_plan(spec, SIZE).layers
    assert {name: trace.shape(name) for name in trace.names} == {
        **{f"eval/{row.name}": (2, *row.output) for row in rows},
        "eval/output": (2, *rows[-1].output),
    }


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("preset", SAMPLES)
def test_weights_come_back_bit_for_bit(preset: str, dtype: str) -> None:
    spec = miniature(get_spec(preset))
    weights = probe_weights(spec, dtype=dtype)
    model = resnet_torch.build(spec, dtype=dtype)
    resnet_torch.load_weights(model, weights)
    found = resnet_torch.export_weights(model)
    assert list(found) == list(make_plan(spec).tensors)
    assert same_weights(found, weights)


def test_exported_weights_are_copies() -> None:
    spec = miniature(get_spec("resnet18"))
    model = loaded(spec)
    resnet_torch.export_weights(model)["head.bias"][:] = 7.0
    assert same_weights(resnet_torch.export_weights(model), probe_weights(spec, dtype="float64"))


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
    spec = miniature(get_spec("resnet18"))
    model = resnet_torch.build(spec, seed=3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    weights = probe_weights(spec)
    damage(weights)
    with pytest.raises(CheckpointError, match=r"head|stem\.norm1"):
        resnet_torch.load_weights(model, weights)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("preset", SAMPLES)
def test_state_dict_is_canonical(preset: str) -> None:
    """But for PyTorch's counters of batches."""
    spec = miniature(get_spec(preset))
    found = {
        name: tuple(tensor.shape) for name, tensor in resnet_torch.build(spec).state_dict().items()
    }
    assert {
        name: shape for name, shape in found.items() if not name.endswith(COUNTER)
    } == make_plan(spec).tensors


@pytest.mark.parametrize("preset", ["torchvision/resnet18", "timm/resnet50_gn"])
def test_a_canonical_file_loads_with_load_state_dict(tmp_path, preset: str) -> None:
    from safetensors.torch import load_file

    spec = miniature(get_spec(preset))
    save_weights(tmp_path / "w.safetensors", probe_weights(spec), spec)
    model = resnet_torch.build(spec)
    report = model.load_state_dict(load_file(tmp_path / "w.safetensors"), strict=False)
    assert report.unexpected_keys == []
    assert all(name.endswith(COUNTER) for name in report.missing_keys)
    assert same_weights(
        resnet_torch.export_weights(model), read_weights(tmp_path / "w.safetensors")[0]
    )


def nchw_images(spec: ResNetSpec) -> torch.Tensor:
    return torch.from_numpy(images_for(spec, dtype="float32")).permute(0, 3, 1, 2)


TRACED = [
    "torchvision/resnet18",
    "flax/resnet50",
    "keras/resnet50v2",
    "timm/resnet50d",
    "bit/r50x1",
]


@pytest.fixture
def fresh_compiler():
    """torch.compile keeps what it has seen of a class."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("preset", rest_in_zoo(TRACED, ("bit/r50x1",)))
def test_compiles_without_a_graph_break(preset: str) -> None:
    spec = miniature(get_spec(preset))
    model, images = loaded(spec, "float32").eval(), nchw_images(spec)
    with torch.inference_mode():
        found = torch.compile(model, backend="eager", fullgraph=True)(images)
        torch.testing.assert_close(found, model(images), rtol=COMPILED_LIMIT, atol=COMPILED_LIMIT)


@pytest.mark.parametrize("preset", rest_in_zoo(TRACED, ("keras/resnet50v2",)))
def test_exports(preset: str) -> None:
    spec = miniature(get_spec(preset))
    model, images = loaded(spec, "float32").eval(), nchw_images(spec)
    program = torch.export.export(model, (images,)).module()
    with torch.inference_mode():
        torch.testing.assert_close(
            program(images), model(images), rtol=COMPILED_LIMIT, atol=COMPILED_LIMIT
        )


@pytest.mark.parametrize(
    ("preset", "training"),
    rest_in_zoo(
        itertools.product(STRUCTURES, [False, True]),
        [(preset, bool(i % 2)) for i, preset in enumerate(COVERING)],
    ),
)
def test_symbolic_traces_are_the_network_at_any_size(preset: str, training: bool) -> None:
    """What FX quantisation and torchvision's feature extraction begin with."""
    model = loaded(miniature(get_spec(preset)), "float32").train(training)
    if training:  # else dropout drops other values in each of the two
        model.apply(lambda m: m.eval() if isinstance(m, torch.nn.Dropout) else m)
    traced = torch.fx.symbolic_trace(model)
    with torch.inference_mode():
        for size in (SIZE, (33, 64)):
            images = torch.randn(2, model.spec.in_channels, *size)
            before = copy.deepcopy(model.state_dict())
            expected, moved = model(images), copy.deepcopy(model.state_dict())
            model.load_state_dict(before)
            assert torch.equal(traced(images), expected)
            after = traced.state_dict()  # and buffers that the network does not save
            assert all(torch.equal(after[name], tensor) for name, tensor in moved.items())


def test_building_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    resnet_torch.build(miniature(get_spec("resnet18")), seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.initial_seed() == 5


def test_building_seeds_no_device(monkeypatch) -> None:
    """`torch.manual_seed` would: also the generators of every GPU, which nobody gives back."""
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    resnet_torch.build(miniature(get_spec("resnet18")), seed=1)
    assert seeded == []


def test_fresh_models_train_and_are_channels_last() -> None:
    model = resnet_torch.build(miniature(get_spec("resnet18")))
    assert model.training
    kernels = [p for p in model.parameters() if p.ndim == 4]
    assert all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)
    features = torch.nn.Sequential(model.stem, model.stages)(torch.randn(2, 3, 64, 64))
    assert features.is_contiguous(memory_format=torch.channels_last)


def test_loading_keeps_channels_last() -> None:
    model = loaded(miniature(get_spec("resnet18")))
    kernels = [p for p in model.parameters() if p.ndim == 4]
    assert all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)


@pytest.mark.parametrize("training", [False, True])
def test_trace_leaves_the_model_as_it_was(training: bool) -> None:
    spec = miniature(get_spec("resnet18"))
    model = loaded(spec).train(training)
    model.stem.train(not training)  # as somebody does who freezes statistics
    modes = [module.training for module in model.modules()]
    resnet_torch.trace(model, images_for(spec))
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks for module in model.modules())
    assert same_weights(resnet_torch.export_weights(model), probe_weights(spec, dtype="float64"))


def test_every_parameter_gets_a_gradient() -> None:
    spec = miniature(get_spec("timm/resnetv2_50d"))
    model = loaded(spec)
    model(torch.from_numpy(images_for(spec)).permute(0, 3, 1, 2)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())
