"""Building the network, and canonical weights in and out of it.

`state_dict` is canonical already.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from resnet_torch.model import ResNet
from shared.architecture.plan import make_plan
from shared.architecture.spec import ResNetSpec
from shared.errors import FrameworkError
from shared.weights.canonical import Weights, cast_exactly, check_weights
from shared.weights.dtypes import dtype_name, float_dtype
from shared.weights.initial import iter_initial_weights

WRAPPERS = ("_orig_mod", "module")  # where torch.compile and (Distributed)DataParallel keep a model


def build(
    spec: ResNetSpec,
    *,
    seed: int = 0,
    dtype: Any = "float32",
    device: torch.device | str | int | None = None,
) -> ResNet:
    """A freshly initialised network in training mode, in the channels_last memory format.

    Its weights are `initial_weights(spec, seed)`; PyTorch's generators are left as they were.
    `dtype` is a name or one of PyTorch's or NumPy's dtypes, `device` what PyTorch takes for one, by
    default its default device. Raises `SpecError` for a dtype that is no float.
    """
    name, device = dtype_name(dtype), torch.get_default_device() if device is None else device
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):  # stock layers draw, too
        model = ResNet(make_plan(spec)).to(getattr(torch, name))
        _assign(_canonical_tensors(model), iter_initial_weights(spec, seed, name))
    # The fastest layout on CPUs and GPUs; convolutions hand it on from their kernels.
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model.to(device)


def load_weights(model: nn.Module, weights: Mapping[str, np.ndarray]) -> None:
    """Copy canonical weights into the model.

    Raises `CheckpointError` listing every tensor that is missing, extra, mis-shaped, not finite, or
    not exact in the model's dtype; the model is then as it was.
    """
    network = unwrap(model)
    check_weights(make_plan(network.spec), weights)
    tensors = _canonical_tensors(network)
    exact = cast_exactly({name: weights[name] for name in tensors}, model_dtype(network))
    _assign(tensors, exact.items())


def export_weights(model: nn.Module) -> Weights:
    """The model's weights under their canonical names, as arrays of their own."""
    return dict(iter_weights(model))


def iter_weights(model: nn.Module) -> Iterator[tuple[str, np.ndarray]]:
    """`export_weights`, one tensor at a time."""
    for name, tensor in _canonical_tensors(unwrap(model)).items():
        yield name, _to_array(tensor)


def unwrap(model: nn.Module) -> ResNet:
    """The network inside `torch.compile`, `DataParallel` and `DistributedDataParallel`.

    Raises `FrameworkError` for a model that has none.
    """
    network = model
    while not isinstance(network, ResNet):
        inside = next((getattr(network, w) for w in WRAPPERS if hasattr(network, w)), None)
        if not isinstance(inside, nn.Module):
            raise FrameworkError(
                f"expected a ResNet that resnet_torch.build made, found {type(model).__name__}; "
                "pass the network itself"
            )
        network = inside
    return network


def model_dtype(model: ResNet) -> str:
    """The dtype that all weights share."""
    return dtype_name(next(model.parameters()).dtype)


def _canonical_tensors(model: ResNet) -> dict[str, torch.Tensor]:
    """Canonical name -> the model's own tensor. Without the counters of batches.

    Raises `FrameworkError` for a model whose tensors are elsewhere, or cut up.
    """
    state, shapes = model.state_dict(), make_plan(model.spec).tensors
    for name, shape in shapes.items():
        if name not in state or tuple(state[name].shape) != shape:
            raise FrameworkError(
                f"{model.spec.name} in PyTorch has no {name} {list(shape)}; "
                "gather the weights of a sharded model first"
            )
    return {name: state[name] for name in shapes}


def _assign(tensors: Mapping[str, torch.Tensor], arrays: Iterable[tuple[str, np.ndarray]]) -> None:
    with torch.no_grad():
        for name, array in arrays:
            tensors[name].copy_(_to_tensor(array))


def _to_tensor(array: np.ndarray) -> torch.Tensor:
    """PyTorch takes NumPy's bfloat16 only by its bits."""
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _to_array(tensor: torch.Tensor) -> np.ndarray:
    tensor = tensor.detach().cpu().contiguous().clone()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(float_dtype("bfloat16"))
    return tensor.numpy()
