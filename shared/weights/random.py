"""Random streams that are the same on every machine."""

from __future__ import annotations

import hashlib

import numpy as np


def named_rng(name: str, seed: int) -> np.random.Generator:
    """A random stream of its own for every name, the same on every machine."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))
