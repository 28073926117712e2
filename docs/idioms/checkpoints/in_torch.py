"""Checkpoints in PyTorch: `state_dict`, read back without running code, and strictly."""

from pathlib import Path

import torch
from torch import Tensor, nn


def saved(weight: Tensor, folder: Path) -> Path:
    trained = nn.Linear(4, 3, bias=False).double()
    trained.load_state_dict({"weight": weight})
    torch.save(trained.state_dict(), folder / "model.pth")
    return folder / "model.pth"


def right(features: Tensor, weight: Tensor, folder: Path) -> Tensor:
    model = nn.Sequential(nn.Linear(4, 3, bias=False)).double()
    tensors = torch.load(saved(weight, folder), weights_only=True)
    model[0].load_state_dict(tensors)  # refuses what is missing, unknown or of another shape
    return model(features)


def wrong(features: Tensor, weight: Tensor, folder: Path) -> Tensor:
    """Not strict: no name fits, nothing is loaded, nobody says so."""
    model = nn.Sequential(nn.Linear(4, 3, bias=False)).double()
    model.load_state_dict(torch.load(saved(weight, folder), weights_only=True), strict=False)
    return model(features)
