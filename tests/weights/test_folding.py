"""Batch norms folded into convolutions: the same function, block by block, for every preset."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shared import (
    CheckpointError,
    ResNetSpec,
    SpecError,
    Trace,
    fold_norms,
    get_spec,
    initial_weights,
    list_presets,
    make_plan,
    miniature,
    probe_images,
    probe_weights,
    read_weights,
    save_weights,
)
from shared.architecture.ops import BatchNorm, FoldedNorm
from shared.frameworks import reference
from shared.verification.distance import relative_error
from shared.verification.tolerances import EVAL_FLOAT64
from shared.weights.canonical import Weights
from shared.weights.folding import folded_spec
from tests.zoo import rest_in_zoo

# One of every kind of norm that folds, and of every kind that does not.
SHORT = (
    "torchvision/resnet18",
    "torchvision/resnet50",
    "keras/resnet50v2",
    "flax/resnet50",
    "timm/resnet50d",
    "timm/resnetblur50",
    "bit/r50x1",
    "fb/preresnet18",
    "cifar/preresnet164",
    "kuangliu/preact_resnet18",
    "ablation/resnet110_norm_after_add",
    "ablation/resnet110_exclusive_gate_b6",
)


def traced(spec: ResNetSpec, weights: Weights) -> Trace:
    model = reference.build(spec, dtype="float64")
    reference.load_weights(model, weights)
    height, width = (32, 64) if spec.anti_alias == "average" else (33, 40)
    return reference.trace(
        model, probe_images((2, height, width, spec.in_channels), dtype="float64")
    )


def comparable(spec: ResNetSpec) -> list[str]:
    """The layers of a folded network whose output is what it was: all but the convolutions that
    have taken a norm in, which already return what that norm returned.
    """
    plan = make_plan(spec)
    taken = {node.inputs[0] for node in plan.nodes() if isinstance(node.op, FoldedNorm)}
    return [f"eval/{row.name}" for row in plan.layers if row.name not in taken] + ["eval/output"]


def worst(spec: ResNetSpec, weights: Weights, folded: ResNetSpec, into: Weights) -> float:
    a, b = traced(spec, weights), traced(folded, into)
    assert a.names == b.names
    return max(relative_error(a[name], b[name]) for name in comparable(folded))


@pytest.mark.parametrize("preset", rest_in_zoo(list_presets(), SHORT))
def test_a_folded_network_is_the_same_function(preset: str) -> None:
    spec = miniature(get_spec(preset))
    weights = probe_weights(spec, dtype="float64")
    folded, into = fold_norms(spec, weights)
    assert into.keys() == make_plan(folded).tensors.keys()
    assert {name: array.shape for name, array in into.items()} == make_plan(folded).tensors
    assert worst(spec, weights, folded, into) < EVAL_FLOAT64


def norms(spec: ResNetSpec) -> tuple[int, list[str]]:
    """How many are folded, and which are left."""
    nodes = list(make_plan(folded_spec(spec)).nodes())
    folded = sum(isinstance(node.op, FoldedNorm) for node in nodes)
    return folded, [node.name for node in nodes if isinstance(node.op, BatchNorm)]


@pytest.mark.parametrize(
    ("preset", "folded", "left"),
    [
        ("resnet50", 53, 0),
        ("timm/resnet50d", 55, 0),
        ("cifar/resnet20", 19, 0),
        # norm1 of the units and the final one read a sum, or what the pool leaves of the stem.
        ("keras/resnet50v2", 32, 16 + 1),
        ("resnet50_v2", 33, 15 + 1),  # its stem has a norm, and its first unit then none
        ("cifar/preresnet164", 108, 54 + 1),
        ("bit/r50x1", 0, 0),
    ],
)
def test_what_is_folded(preset: str, folded: int, left: int) -> None:
    found, kept = norms(get_spec(preset))
    assert (found, len(kept)) == (folded, left)
    assert all(name.endswith(".norm1") or name == "final_norm" for name in kept)


def test_norms_after_an_addition_stay() -> None:
    spec = get_spec("ablation/resnet110_norm_after_add")
    folded, left = norms(spec)
    assert len(left) == sum(spec.depths)
    assert all(name.endswith(".norm2") for name in left)
    assert folded > len(left)


def test_a_bias_in_front_of_a_norm_is_folded_too() -> None:
    spec = miniature(get_spec("keras/resnet50"))
    assert spec.block.bias
    weights = probe_weights(spec, dtype="float64")
    folded, into = fold_norms(spec, weights)
    assert worst(spec, weights, folded, into) < EVAL_FLOAT64
    without = {k: np.zeros_like(v) if k == "stem.conv1.bias" else v for k, v in weights.items()}
    other = fold_norms(spec, without)[1]
    assert not np.array_equal(into["stem.conv1.bias"], other["stem.conv1.bias"])


@pytest.mark.parametrize("leaf", ["weight", "bias", "running_mean", "running_var"])
def test_every_tensor_of_a_norm_counts(leaf: str) -> None:
    """The proof sees each of them where it is wrong in one channel."""
    spec = miniature(get_spec("resnet50"))
    weights = probe_weights(spec, dtype="float64")
    wrong = {name: array.copy() for name, array in weights.items()}
    wrong[f"stages.1.blocks.0.norm2.{leaf}"][3] += 1e-8
    folded, into = fold_norms(spec, wrong)
    assert worst(spec, weights, folded, into) > 10 * EVAL_FLOAT64


def test_eps_counts() -> None:
    spec = miniature(get_spec("resnet50"))
    weights = probe_weights(spec, dtype="float64")
    folded, into = fold_norms(spec.replace(**{"norm.eps": 2e-5}), weights)
    assert worst(spec, weights, folded, into) > 1e-7


def test_weights_are_rounded_once() -> None:
    spec = miniature(get_spec("cifar/resnet20"))
    weights = probe_weights(spec)
    single = fold_norms(spec, weights)[1]
    double = fold_norms(spec, {k: v.astype(np.float64) for k, v in weights.items()})[1]
    for name, array in double.items():
        assert single[name].dtype == np.float32
        assert np.array_equal(single[name], array.astype(np.float32))


def test_nothing_of_what_is_given_changes() -> None:
    spec = miniature(get_spec("bit/r50x1"))
    weights = probe_weights(spec)
    before = {name: array.copy() for name, array in weights.items()}
    folded, into = fold_norms(spec, weights)
    assert all(np.array_equal(weights[name], array) for name, array in before.items())
    assert folded == spec.replace(weight_std_eps=None)
    assert fold_norms(folded, into)[0] == folded


def test_folding_twice_is_folding_once() -> None:
    spec = miniature(get_spec("resnet50_v2"))
    folded, into = fold_norms(spec, probe_weights(spec))
    again, same = fold_norms(folded, into)
    assert again == folded
    assert all(np.array_equal(same[name], array) for name, array in into.items())


def test_a_folded_network_is_a_network(tmp_path: Path) -> None:
    """It has a spec, that JSON and files hold, and weights of its own."""
    spec = miniature(get_spec("resnet50_v2"))
    folded, into = fold_norms(spec, probe_weights(spec))
    assert ResNetSpec.from_json(folded.to_json()) == folded
    save_weights(tmp_path / "w.safetensors", into, folded)
    read, found = read_weights(tmp_path / "w.safetensors")
    assert found == folded
    assert all(np.array_equal(read[name], array) for name, array in into.items())
    assert make_plan(folded).macs == make_plan(spec).macs
    assert initial_weights(folded).keys() == into.keys() == probe_weights(folded).keys()
    probed = probe_weights(folded)
    assert all(np.allclose(probed[name], into[name], rtol=1e-5, atol=1e-6) for name in into)


def test_blocks_that_are_alike_stay_one_object() -> None:
    plan = make_plan(folded_spec(get_spec("resnet152")))
    assert [len({id(block) for block in stage}) for stage in plan.stages] == [2, 2, 2, 2]


def test_weights_that_do_not_fit_are_refused() -> None:
    spec = miniature(get_spec("cifar/resnet20"))
    weights = probe_weights(spec)
    del weights["stem.norm1.bias"]
    with pytest.raises(CheckpointError, match=r"stem\.norm1\.bias"):
        fold_norms(spec, weights)


def test_group_norms_cannot_be_folded() -> None:
    with pytest.raises(SpecError, match=r"norm\.folded"):
        get_spec("bit/r50x1", **{"norm.folded": True})
