"""`resnet_torch` against torchvision, in torchvision's best eager layout."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

import resnet_torch
from benchmarks.timing import BATCH, SIZE, Result, race
from shared import get_spec
from tests.peers import import_torchvision


def _inference(model: nn.Module, x: torch.Tensor) -> Callable[[], object]:
    model.eval()

    def run() -> object:
        with torch.inference_mode():
            return model(x)

    return run


def _training_step(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Callable[[], object]:
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def run() -> object:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        return optimizer.step()

    return run


def main() -> list[Result]:
    models = import_torchvision().models
    generator = torch.Generator().manual_seed(0)
    planar = torch.randn(BATCH, 3, SIZE, SIZE, generator=generator)
    last = planar.contiguous(memory_format=torch.channels_last)
    y = torch.randint(1000, (BATCH,), generator=generator)
    ours = resnet_torch.build(get_spec("torchvision/resnet50"))
    peers = {
        "torchvision, NCHW": (models.resnet50(), planar),
        "torchvision, channels_last": (models.resnet50().to(memory_format=torch.channels_last), last),
    }
    results = []
    for name, (peer, x) in peers.items():
        results.append(race("resnet_torch inference", name, _inference(ours, last), _inference(peer, x)))
        steps = (_training_step(ours, last, y), _training_step(peer, x, y))
        results.append(race("resnet_torch training step", name, *steps))
    return results
