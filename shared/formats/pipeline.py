"""What happens to a tensor on its way from one checkpoint to another. Each goes through the stages

    read     from the source, in canonical layout
    check    finite, variances not below zero, and what the source's own SHA-256 says
    fold     a bias into the mean behind it, a difference of eps into a variance
    cast     to the target's dtype; an overflow, or a variance that becomes zero, is refused
    layout   the target's axes
    digest   SHA-256, to compare the target with when it is read back
    write    by the target's container

once, when the container's writer asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from shared.architecture.ops import Shape
from shared.errors import CheckpointError
from shared.formats.checkpoint import Checkpoint
from shared.formats.containers.archive import Entry
from shared.formats.containers.registry import Container
from shared.formats.folding import Fitted
from shared.formats.layouts import from_canonical
from shared.naming.names import plan_of
from shared.weights.digests import sha256_of
from shared.weights.dtypes import float_dtype

SHOWN_CHANNELS = 8


class Pipeline:
    """The target's tensors, under canonical names and in the target's layout.

    Whoever loads one of the `entries` takes it through the stages; threads may do so. What is wrong
    with the values is for `check.finish` to raise.
    """

    def __init__(self, source: Checkpoint, fitted: Fitted, dtypes: Mapping[str, np.dtype]):
        self.source, self.fitted, self.dtypes = source, fitted, dtypes
        self.check = source.value_check()
        self.digests: dict[str, str] = {}  # of what has been loaded
        self.entries = {
            name: self._entry(name, shape) for name, shape in plan_of(fitted.spec).tensors.items()
        }

    def _entry(self, name: str, shape: Shape) -> Entry:
        load = partial(self._value, name)
        return replace(self._layout(name, Entry(shape, self.dtypes[name], load)), load=load)

    def _value(self, name: str) -> np.ndarray:
        array = self._read(name)
        array = self._fold(name, array)
        array = self._cast(name, array)
        array = self._layout(name, Entry.of(array)).load()
        self.digests[name] = sha256_of(array)
        return array

    def _read(self, name: str) -> np.ndarray:
        array = self.source.entries[name].load()
        self.check.add(name, array)
        return array

    def _fold(self, name: str, array: np.ndarray) -> np.ndarray:
        """A bias subtracted from a mean, or the difference of eps added to variances; in float64,
        so that `_cast` rounds once.
        """
        if name in self.fitted.biases:
            bias = self._read(self.fitted.biases[name])
            return array.astype(np.float64) - bias.astype(np.float64)
        if not (self.fitted.variance_shift and name.endswith("running_var")):
            return array
        folded = array.astype(np.float64) + self.fitted.variance_shift
        if below := np.flatnonzero((folded < 0) & (array >= 0)).tolist():
            channels = ", ".join(map(str, below[:SHOWN_CHANNELS]))
            more = f" and {len(below) - SHOWN_CHANNELS} more" if len(below) > SHOWN_CHANNELS else ""
            self.check.note(
                f"with variances that would be below zero with eps {self.fitted.spec.norm.eps}",
                name,
                f"in channels {channels}{more}",
            )
        return folded

    def _cast(self, name: str, array: np.ndarray) -> np.ndarray:
        dtype = self.dtypes[name]
        if array.dtype == dtype:
            return array
        with np.errstate(over="ignore"):  # it is reported below
            cast = array.astype(dtype)
        if over := int((np.isfinite(array) & ~np.isfinite(cast)).sum()):
            wider = "float32 or bfloat16" if dtype == np.float16 else "float64"
            kind = f"too large for {dtype}, not for {wider}"
            self.check.note(kind, name, f"has {over} values that become inf")
        if name.endswith("running_var") and (gone := int(((array != 0) & (cast == 0)).sum())):
            self.check.note(f"too small for {dtype}", name, f"has {gone} variances that become 0")
        return cast

    def _layout(self, name: str, entry: Entry) -> Entry:
        return from_canonical(self.fitted.scheme, name, entry)


def choose_dtypes(
    source: Checkpoint, fitted: Fitted, container: Container, asked: str | None
) -> tuple[dict[str, np.dtype], list[str]]:
    """The dtype of each of the target's tensors: what is asked for, or the source's own, or the one
    that holds it exactly where the container has no such type; and a note if any changes.
    """
    if asked is not None and asked not in container.dtypes:
        raise CheckpointError(
            f"{container.title} holds {', '.join(container.dtypes)}; --dtype {asked} cannot be kept"
        )
    dtypes, changed = {}, set()
    for name in plan_of(fitted.spec).tensors:
        own = source.entries[name].dtype
        dtype = float_dtype(asked) if asked else own
        if dtype.name not in container.dtypes:
            if dtype.itemsize > 4:
                raise CheckpointError(
                    f"{container.title} holds {', '.join(container.dtypes)}, and {name} is "
                    f"{dtype}; --dtype float32 rounds"
                )
            dtype = np.dtype(np.float32)
        dtypes[name] = dtype
        if dtype != own:
            changed.add(f"{own} to {dtype}")
    how = "rounded" if asked else "widened, exactly, because the target has no such type"
    return dtypes, [f"{', '.join(sorted(changed))}: {how}"] if changed else []
