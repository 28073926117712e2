"""Building the network, and canonical weights in and out of it.

`state_dict` is canonical already.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch

from resnet_torch.init import initialize
from resnet_torch.model import ResNet
from shared.architecture.plan import make_plan
from shared.architecture.spec import ResNetSpec
from shared.weights.canonical import Weights, cast_exactly, check_weights, float_dtype


def build(spec: ResNetSpec, *, seed: int = 0, dtype: str = "float32") -> ResNet:
    """A freshly initialised network in training mode, in the channels_last memory format.

    `seed` draws the weights; PyTorch's global generator is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every GPU, too
        model = ResNet(make_plan(spec))
        initialize(model)
    model.to(getattr(torch, dtype))
    # The fastest layout on CPUs and GPUs; convolutions hand it on from their kernels.
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def load_weights(model: ResNet, weights: Mapping[str, np.ndarray]) -> None:
    """Copy canonical weights into the model.

    Raises `CheckpointError` listing every tensor that is missing, extra, mis-shaped, not finite, or
    not exact in the model's dtype; the model is then as it was.
    """
    check_weights(make_plan(model.spec), weights)
    tensors = _canonical_tensors(model)
    dtype = str(next(iter(tensors.values())).dtype).removeprefix("torch.")
    exact = cast_exactly({name: weights[name] for name in tensors}, dtype)
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(_to_tensor(exact[name]))


def export_weights(model: ResNet) -> Weights:
    """The model's weights under their canonical names, as arrays of their own."""
    return dict(iter_weights(model))


def iter_weights(model: ResNet) -> Iterator[tuple[str, np.ndarray]]:
    """`export_weights`, one tensor at a time."""
    for name, tensor in _canonical_tensors(model).items():
        yield name, _to_array(tensor)


def _canonical_tensors(model: ResNet) -> dict[str, torch.Tensor]:
    """Canonical name -> the model's own tensor. PyTorch counts batches; nobody else does."""
    state = model.state_dict()
    return {name: state[name] for name in make_plan(model.spec).tensors}


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
