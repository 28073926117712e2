"""A scheme's axes from canonical ones, and back."""

from __future__ import annotations

from shared.formats.containers.archive import Entry
from shared.naming.schemes import Scheme
from shared.weights.canonical import HWIO_TO_OIHW, OIHW_TO_HWIO, transposed


def to_canonical(scheme: Scheme, tensor: str, entry: Entry) -> Entry:
    """The entry in canonical layout."""
    if tensor == "head.weight" and scheme.head_is_conv and len(entry.shape) == 4:
        axes = HWIO_TO_OIHW if scheme.channels_last else (0, 1, 2, 3)
        n, c, height, width = (entry.shape[axis] for axis in axes)
        if height == width == 1:
            return entry.map((n, c), lambda array: transposed(array, axes).reshape(n, c))
        return entry
    return _transposed(entry, HWIO_TO_OIHW) if scheme.channels_last else entry


def from_canonical(scheme: Scheme, tensor: str, entry: Entry) -> Entry:
    """The canonical entry in the scheme's layout; the inverse of `to_canonical`."""
    if tensor == "head.weight" and scheme.head_is_conv:
        n, c = entry.shape
        if scheme.channels_last:
            return entry.map(
                (1, 1, c, n), lambda array: transposed(array, (1, 0)).reshape(1, 1, c, n)
            )
        return entry.map((n, c, 1, 1), lambda array: array.reshape(n, c, 1, 1))
    return _transposed(entry, OIHW_TO_HWIO) if scheme.channels_last else entry


def _transposed(entry: Entry, kernel_axes: tuple[int, ...]) -> Entry:
    axes = kernel_axes if len(entry.shape) == 4 else (1, 0) if len(entry.shape) == 2 else None
    if axes is None:
        return entry
    shape = tuple(entry.shape[axis] for axis in axes)
    return entry.map(shape, lambda array: transposed(array, axes))
