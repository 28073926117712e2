"""The network as it is deployed: batch norms folded, weights frozen, compiled by Inductor."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from resnet_torch.model import ResNet
from resnet_torch.weights import export_weights, load_weights, model_dtype, unwrap
from shared.architecture.plan import make_plan
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


def inference(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """The network as a function of images [N, C, H, W], folded and compiled.

    The weights are those of now, as constants of the program (`freezing`), from which Inductor
    makes the layout that its kernels want. It compiles at the first call, and again for another
    image size; that takes tens of seconds and a C++ compiler.
    """
    compiled = torch.compile(fold(model), options={"freezing": True})

    def run(images: Tensor) -> Tensor:
        with torch.no_grad():  # Inductor freezes nothing that may want a gradient
            return compiled(images.contiguous(memory_format=torch.channels_last))

    return run
