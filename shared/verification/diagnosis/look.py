"""The cheap look: where in a tensor two sides differ, which often says what kind of mistake it is.

Nothing here is a proof; the search is.
"""

from __future__ import annotations

import numpy as np

from shared.verification.diagnosis.observations import Observations
from shared.verification.diagnosis.passes import Passes, check_of
from shared.verification.hypotheses.hypothesis import Array
from shared.verification.recording import EVAL, STEP, TRAIN

SAME = 1e-6  # of the largest value: what is nearer does not differ, for the look
FITS = 1e-3  # of the difference that a factor or an offset may leave


def look(right: Passes, observed: Observations, key: str) -> list[str]:
    """What is seen at the first key that differs, in sentences."""
    found = [_from_where(observed, key)]
    seen, expected = observed.values[key], right.get(key)
    if seen.shape != expected.shape:
        found.append(
            f"it has shape {list(seen.shape)}, expected {list(expected.shape)}: a stride, a pool "
            "or a padding is another"
        )
        return found
    found += in_tensor(seen, expected, features=key.startswith((f"{EVAL}/", f"{TRAIN}/")))
    return found


def _from_where(observed: Observations, key: str) -> str:
    keys = list(observed.values)
    check, layer = check_of(key), key.partition("/")[2] or key
    before = keys[: keys.index(key)]
    if check == EVAL:
        if before:
            return f"the first layer that differs is {layer}; the {len(before)} before it agree"
        return f"{layer} differs" + ("" if len(keys) > 1 else ", and there is nothing else to see")
    if check == STEP and not key.startswith("step1/"):
        return f"it starts at {key}: something that the steps before have left"
    if any(check_of(k) == EVAL for k in before):
        return f"only training differs, from {key} on"
    return f"it starts at {key}"


def in_tensor(seen: Array, right: Array, *, features: bool) -> list[str]:
    """Where in a tensor [N, H, W, C], [N, C] or of any other shape the two sides differ."""
    scale = float(np.abs(right).max(initial=0.0))
    off = np.abs(seen - right) > SAME * scale
    if not off.any() or not features or seen.ndim < 2:
        return []
    found = []
    if seen.ndim == 4:
        found += _border(off)
    axes = tuple(range(seen.ndim - 1))
    channels = off.any(axis=axes)
    if not channels.all():
        count = int(channels.sum())
        which = np.flatnonzero(channels)[:5].tolist()
        found.append(
            f"{count} of {len(channels)} channels differ ({', '.join(map(str, which))}"
            + (", …)" if count > 5 else ")")
        )
    found += _per_channel(seen, right, axes)
    return found


def _border(off: Array) -> list[str]:
    """Whether only pixels near a border differ."""
    pixels = np.asarray(off.any(axis=(0, 3)))
    rows, columns = np.asarray(pixels.any(axis=1)), np.asarray(pixels.any(axis=0))
    height, width = pixels.shape
    if min(height, width) < 5:
        return []
    inner = pixels[2:-2, 2:-2]
    if not inner.any():
        sides = [
            side
            for side, there in (
                ("top", rows[:2].any()),
                ("bottom", rows[-2:].any()),
                ("left", columns[:2].any()),
                ("right", columns[-2:].any()),
            )
            if there
        ]
        return [f"only border pixels differ ({', '.join(sides)}): padding, or a crop"]
    return []


def _per_channel(seen: Array, right: Array, axes: tuple[int, ...]) -> list[str]:
    """A factor, an offset, or another order of the channels."""
    size = int(np.prod([seen.shape[a] for a in axes]))
    if size < 3:
        return _another_order(seen, right)
    difference = seen - right
    norm = float(np.sqrt((difference**2).mean()))
    offset = difference.mean(axis=axes, keepdims=True)
    if np.sqrt(((difference - offset) ** 2).mean()) <= FITS * norm:
        return ["every channel is off by a constant: a bias, a beta or a mean"]
    square = (right * right).sum(axis=axes, keepdims=True)
    factor = (seen * right).sum(axis=axes, keepdims=True) / np.where(square == 0, 1, square)
    if np.sqrt(((seen - factor * right) ** 2).mean()) <= FITS * norm:
        low, high = float(factor.min()), float(factor.max())
        return [f"every channel is off by a factor ({low:.6g} to {high:.6g}): gamma, a scale"]
    centred = right - right.mean(axis=axes, keepdims=True)
    moved = seen - seen.mean(axis=axes, keepdims=True)
    square = (centred * centred).sum(axis=axes, keepdims=True)
    factor = (moved * centred).sum(axis=axes, keepdims=True) / np.where(square == 0, 1, square)
    if np.sqrt(((moved - factor * centred) ** 2).mean()) <= FITS * norm:
        low, high = float(factor.min()), float(factor.max())
        return [
            f"every channel is off by a factor ({low:.6g} to {high:.6g}) and a constant: eps, a "
            "variance, or another norm's tensors"
        ]
    return _another_order(seen, right)


def _another_order(seen: Array, right: Array) -> list[str]:
    """Whether the same values stand in another order."""
    scale = float(np.abs(right).max())
    if np.allclose(np.sort(seen, axis=-1), np.sort(right, axis=-1), rtol=0, atol=SAME * scale):
        return ["the same values in another order of the channels: exchanged, or sorted"]
    if np.allclose(np.sort(seen.ravel()), np.sort(right.ravel()), rtol=0, atol=SAME * scale):
        return ["the same values in other places: transposed, mirrored, or another order"]
    return []
