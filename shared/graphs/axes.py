"""Physical dimensions as products of logical axes, so that layouts are bookkeeping, not operators.

A dimension is a tuple of atoms `(axis, hi, lo)`: the factor `index // lo % (hi // lo)` of a logical
axis N, H, W or C ("?" where it is not known). A transpose permutes dimensions; a reshape splits and
joins atoms. An axis of size 1 is no atom: it has no place in a layout.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod

import numpy as np

from shared.graphs.primitives import Array

Atom = tuple[str, int, int]
Dim = tuple[Atom, ...]
Dims = tuple[Dim, ...]


def whole(axis: str, size: int) -> Dim:
    """A dimension that is one whole axis."""
    return ((axis, size, 1),) if size > 1 else ()


def size_of(dim: Dim) -> int:
    return prod(hi // lo for _, hi, lo in dim)


def axes_in(dim: Dim) -> tuple[str, ...]:
    return tuple(axis for axis, _, _ in dim)


def letters(dims: Dims) -> str:
    """One letter a dimension, "." for a dimension of 1; "" where one is no single axis."""
    if any(len(dim) > 1 or (dim and dim[0][2] != 1) for dim in dims):
        return ""
    return "".join(dim[0][0] if dim else "." for dim in dims)


def layout_of(dims: Dims) -> str:
    """The layout of four dimensions, those of size 1 filled in; "" where there is none."""
    found = letters(dims)
    missing = [axis for axis in "NHWC" if axis not in found]
    if len(found) != 4 or set(found) - set("NHWC.") or found.count(".") != len(missing):
        return ""
    for axis in missing:
        found = found.replace(".", axis, 1)
    return found if len(set(found)) == 4 else ""


def logical(value: Array, dims: Dims, axes: str = "NHWC") -> Array:
    """A value of `dims` with one dimension for each of `axes`, in their order.

    Raises `ValueError` where it has other axes, or a part of one.
    """
    atoms = [atom for dim in dims for atom in dim]
    parts = value.reshape([hi // lo for _, hi, lo in atoms])
    order = sorted(range(len(atoms)), key=lambda k: (axes.index(atoms[k][0]), -atoms[k][1]))
    sizes = dict.fromkeys(axes, 1)
    for axis, hi, lo in atoms:
        sizes[axis] *= hi // lo
    return parts.transpose(order).reshape([sizes[axis] for axis in axes])


def joined(atoms: Iterable[Atom]) -> Dim:
    """Neighbouring factors of one axis become one."""
    out: list[Atom] = []
    for atom in atoms:
        if out and out[-1][0] == atom[0] and out[-1][2] == atom[1]:
            out[-1] = (atom[0], out[-1][1], atom[2])
        else:
            out.append(atom)
    return tuple(out)


def reshaped(dims: Dims, shape: Sequence[int]) -> Dims | None:
    """The atoms, dealt out over another shape; None where a dimension would cut one unevenly."""
    atoms = [atom for dim in dims for atom in dim if atom[1] // atom[2] > 1]
    out = []
    for want in shape:
        taken: list[Atom] = []
        have = 1
        while have < want:
            if not atoms:
                return None
            axis, hi, lo = atoms[0]
            n = hi // lo
            if have * n <= want:
                taken.append(atoms.pop(0))
                have *= n
                continue
            factor = want // have
            if want % have or n % factor:
                return None
            taken.append((axis, hi, hi // factor))
            atoms[0] = (axis, hi // factor, lo)
            have *= factor
        if have != want:
            return None
        out.append(joined(taken))
    return None if atoms else tuple(out)


def aligned(dims: Dims, rank: int) -> Dims:
    """With dimensions of 1 in front, as NumPy broadcasts."""
    return ((),) * (rank - len(dims)) + dims


def by_channel(value: Array, dims: Dims, rank: int) -> Array | None:
    """A constant that meets an activation of `dims`, as a [C] vector or a scalar; None where it
    varies over anything but the channels.
    """
    value = np.asarray(value)
    value = value.reshape((1,) * (rank - value.ndim) + value.shape)
    if value.size == 1:
        return value.reshape(-1)[0:1].reshape(())
    kept = []
    for d in range(rank):
        if value.shape[d] == 1:
            continue
        if set(axes_in(dims[d])) == {"C"}:
            kept.append(d)
            continue
        first = np.take(value, [0], axis=d)
        if value.strides[d] != 0 and not (value == first).all():
            return None
        value = first
    if not kept:
        return value.reshape(-1)[0:1].reshape(())
    atoms = joined(atom for d in kept for atom in dims[d])
    if len(atoms) != 1:
        return None
    # A part of the axis, such as the group of each channel, repeats over the rest.
    return np.repeat(value.reshape(-1), atoms[0][2])
