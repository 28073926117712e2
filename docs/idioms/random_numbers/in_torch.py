"""Random numbers in PyTorch: the seed of a generator means nothing to another framework."""

import numpy as np
import torch
from torch import Tensor


def right() -> Tensor:
    """Drawn once, by NumPy, whose streams are promised, and handed to everyone."""
    return torch.from_numpy(np.random.default_rng(0).normal(size=(4, 5)))


def wrong() -> Tensor:
    return torch.randn(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
