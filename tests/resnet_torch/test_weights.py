"""Building in PyTorch, and weights in and out of a model that something else wraps."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import resnet_torch
from shared import FrameworkError, SpecError, get_spec, probe_weights
from shared.architecture.presets import miniature
from shared.weights.initial import initial_weights
from tests.probes import images_for, same_weights

SPEC = miniature(get_spec("flax/resnet18"))


@pytest.fixture
def process_group(tmp_path):
    """Of this process alone."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


WRAPPERS = {
    "compile": torch.compile,
    "data-parallel": nn.DataParallel,
    "distributed": DistributedDataParallel,
    "compile-of-distributed": lambda model: torch.compile(DistributedDataParallel(model)),
    "distributed-of-compile": lambda model: DistributedDataParallel(torch.compile(model)),
}


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_weights_and_traces_of_a_wrapped_model(wrap) -> None:
    model = resnet_torch.build(SPEC)
    wrapped = wrap(model)
    assert same_weights(resnet_torch.export_weights(wrapped), initial_weights(SPEC))
    resnet_torch.load_weights(wrapped, probe_weights(SPEC))
    assert same_weights(resnet_torch.export_weights(model), probe_weights(SPEC))
    found, expected = (resnet_torch.trace(m, images_for(SPEC)) for m in (wrapped, model))
    assert found.names == expected.names
    assert all(np.array_equal(found[name], expected[name]) for name in found.names)


@pytest.mark.parametrize("model", [nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2))])
def test_another_model_is_refused(model: nn.Module) -> None:
    for call in (
        resnet_torch.export_weights,
        lambda model: resnet_torch.load_weights(model, {}),
        lambda model: resnet_torch.trace(model, images_for(SPEC)),
    ):
        with pytest.raises(FrameworkError, match=f"expected a ResNet.*{type(model).__name__}"):
            call(model)


def test_a_model_that_is_cut_up_is_refused() -> None:
    model = resnet_torch.build(SPEC)
    model.head.weight = nn.Parameter(model.head.weight.detach().flatten())  # as FSDP shards it
    with pytest.raises(FrameworkError, match=r"has no head\.weight"):
        resnet_torch.export_weights(model)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_dtypes_are_names_or_pytorchs_own(dtype: str) -> None:
    for given in (dtype, getattr(torch, dtype)):
        model = resnet_torch.build(SPEC, dtype=given)
        assert {p.dtype for p in model.parameters()} == {getattr(torch, dtype)}
        assert model.stem.norm1.running_var.dtype == getattr(torch, dtype)


@pytest.mark.parametrize("dtype", ["float", "int64", torch.int32, np.int8, "torch"])
def test_another_dtype_is_refused(dtype: object) -> None:
    with pytest.raises(SpecError, match=r"dtype = .*must be one of float64, float32"):
        resnet_torch.build(SPEC, dtype=dtype)


def test_models_are_built_on_the_default_device() -> None:
    with torch.device("meta"):
        model = resnet_torch.build(SPEC)
    assert {t.device.type for t in model.state_dict().values()} == {"meta"}
    assert {t.device.type for t in resnet_torch.build(SPEC).state_dict().values()} == {"cpu"}


@pytest.mark.parametrize("device", ["meta", torch.device("meta")], ids=["name", "object"])
def test_models_are_built_on_the_device_that_is_asked_for(device: object) -> None:
    with torch.device("cpu"):
        model = resnet_torch.build(SPEC, device=device)
    assert {t.device.type for t in [*model.parameters(), *model.buffers()]} == {"meta"}
