"""`resnet_torch` against torchvision, in torchvision's best eager layout; and `inference()` against
that and the runtimes that are installed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import nn

import resnet_torch
from benchmarks.runtimes import runtimes
from benchmarks.timing import BATCH, SIZE, Result, race
from shared import get_spec
from tests.peers import import_torchvision


def _inference(model: nn.Module, x: torch.Tensor) -> Callable[[], object]:
    model.eval()

    def run() -> object:
        with torch.inference_mode():
            return model(x)

    return run


def main() -> list[Result]:
    models = import_torchvision().models
    generator = torch.Generator().manual_seed(0)
    planar = torch.randn(BATCH, 3, SIZE, SIZE, generator=generator)
    last = planar.contiguous(memory_format=torch.channels_last)
    ours = resnet_torch.build(get_spec("torchvision/resnet50"))
    peers = {
        "torchvision, NCHW": (models.resnet50(), planar),
        "torchvision, channels_last": (
            models.resnet50().to(memory_format=torch.channels_last),
            last,
        ),
    }
    eager = {name: _inference(peer, x) for name, (peer, x) in peers.items()}
    results = [
        race("resnet_torch", name, _inference(ours, last), run) for name, run in eager.items()
    ]
    name = "torchvision, channels_last"
    sides = [(name, eager[name]), *runtimes(models.resnet50(), planar)]
    for compiler in ("inductor", "onednn"):
        deployed = functools.partial(resnet_torch.inference(ours, compiler), last)
        results += [
            race(f"resnet_torch.inference, {compiler}", name, deployed, run, warmups=2)
            for name, run in sides
        ]
    return results
