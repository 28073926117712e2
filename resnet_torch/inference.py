"""The network as it is deployed: batch norms folded, weights frozen, compiled by Inductor or, on
CPUs, by oneDNN.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from resnet_torch.model import ResNet
from resnet_torch.weights import export_weights, load_weights, model_dtype, unwrap
from shared.architecture.plan import make_plan
from shared.errors import FrameworkError
from shared.weights.folding import fold_norms


def fold(model: nn.Module) -> ResNet:
    """The network in evaluation mode with its batch norms folded into the convolutions in front of
    them, as `shared.weights.folding` has it.

    A network of its own with frozen weights, in the dtype, on the device and with the layer names
    of `model`, which is left as it was.
    """
    network = unwrap(model)
    spec, weights = fold_norms(network.spec, export_weights(network))
    device = next(network.parameters()).device
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):  # stock layers draw
        folded = ResNet(make_plan(spec)).to(getattr(torch, model_dtype(network)))
    load_weights(folded, weights)
    folded.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return folded.to(device).eval().requires_grad_(False)


def inference(
    model: nn.Module, compiler: Literal["inductor", "onednn"] = "inductor"
) -> Callable[[Tensor], Tensor]:
    """The network as a function of images [N, C, H, W], folded and compiled.

    The weights are those of now, as constants of the program. Either compiler starts at the first
    call, and again for another image size.

    Args:
        compiler: "inductor" is `torch.compile` with `freezing`, on every device and in every dtype;
            it takes tens of seconds and a C++ compiler. "onednn" is a TorchScript program whose
            operators oneDNN fuses, for float32 on a CPU: it needs no C++ compiler and is the faster
            there (docs/speed.md), but PyTorch calls TorchScript deprecated.

    Raises `FrameworkError` for "onednn" in another dtype or on another device, and for a compiler
    that is neither.
    """
    folded = fold(model)
    if compiler == "inductor":
        program: Callable[[Tensor], Tensor] = torch.compile(folded, options={"freezing": True})
    elif compiler == "onednn":
        first = next(folded.parameters())
        if first.dtype != torch.float32 or first.device.type != "cpu":
            raise FrameworkError(
                f"compiler 'onednn' is for float32 on a CPU, and the network is {first.dtype} on "
                f"{first.device}; take 'inductor'"
            )
        program = _fused_by_onednn(folded)
    else:
        raise FrameworkError(f"unknown compiler {compiler!r}; known are 'inductor' and 'onednn'")

    def run(images: Tensor) -> Tensor:
        with torch.no_grad():  # Inductor freezes nothing that may want a gradient
            return program(images.contiguous(memory_format=torch.channels_last))

    return run


def _fused_by_onednn(folded: ResNet) -> Callable[[Tensor], Tensor]:
    programs: dict[torch.Size, Callable[[Tensor], Tensor]] = {}

    def run(images: Tensor) -> Tensor:
        if images.shape not in programs:  # padding is a constant of a traced program
            with _onednn_fusion(), warnings.catch_warnings():
                for kind in (DeprecationWarning, torch.jit.TracerWarning):
                    warnings.simplefilter("ignore", kind)
                program = torch.jit.freeze(torch.jit.trace(folded, images, check_trace=False))
                program(images)  # notes the shapes, for which the second call compiles
                program(images)
            programs[images.shape] = program
        return programs[images.shape](images)

    return run


@contextmanager
def _onednn_fusion() -> Iterator[None]:
    """Other TorchScript programs of this process are compiled as before."""
    before = torch.jit.onednn_fusion_enabled()
    torch.jit.enable_onednn_fusion(True)
    try:
        yield
    finally:
        torch.jit.enable_onednn_fusion(before)
