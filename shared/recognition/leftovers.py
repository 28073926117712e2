"""What is in a file beside its networks: what is left by itself, and what somebody has to say that
it may be left.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from shared.recognition.layers import Tensor
from shared.recognition.names import Words, parts_of

OPTIMIZER, COUNTER, NUMBER, CONFIGURATION = "optimizer", "counters", "numbers", "configuration"
AVERAGES = "averages"  # of the parameters alone
OTHER = "other"  # belongs to something that is no ResNet

_OPTIMIZER = re.compile(
    r"optim(izers?)?(_\w+)?|opts?(_state)?|opt_states?|\w+_optim(izers?)?(_\w+)?|optimizer_\w+|"
    r"(lr_)?schedulers?|(grad_)?scalers?|amp|momentum_buffer|exp_avg(_sq)?|max_exp_avg_sq|"
    r"Momentum|Adam(_\d)?|RMSProp(_\d)?|Adagrad|AdamW(_\d)?|LARS\w*|.*rng_states?|rngs?|rng_keys?"
)
_COUNTERS = frozenset(
    (
        "num_batches_tracked",
        "n_averaged",
        "num_updates",
        "global_step",
        "counter",
        "hidden",  # of Haiku's averages, which `average` is computed from
        "step",
        "epoch",
    )
)
_CONFIGURATION = frozenset(("mean_rgb", "stddev_rgb", "input_resolution"))


class Group(NamedTuple):
    """Tensors that are no network's: where they are, what they are, and their names."""

    path: str
    kind: str
    names: Sequence[str]


def kind_of(name: str, tensor: Tensor) -> str | None:
    """What a tensor is that no network has by what it is called; None for all others."""
    parts = parts_of(name)
    if any(map(_is_optimizers, parts)):
        return OPTIMIZER
    last = parts[-1] if parts else ""
    whole = np.issubdtype(tensor.dtype, np.integer) or tensor.dtype == np.bool_
    single = all(n == 1 for n in tensor.shape)
    if last in _COUNTERS and (whole or single or last == "hidden"):
        return COUNTER
    if last in _CONFIGURATION:
        return CONFIGURATION
    return COUNTER if whole and single else None


@functools.lru_cache(maxsize=1 << 12)
def _is_optimizers(part: str) -> bool:
    return _OPTIMIZER.fullmatch(part) is not None


def groups(
    aside: Mapping[str, str],
    left: Iterable[str],
    shapes: Mapping[str, tuple[int, ...]],
    networks: Sequence[Words],
) -> list[Group]:
    """The tensors that are left, by the highest part of their names that no network has.

    Args:
        aside: name -> kind, of those that are left by themselves.
        left: all others.
        shapes: of all.
        networks: the parts that each network's names begin with.
    """
    inner = {path[:depth] for path in networks for depth in range(len(path) + 1)}
    found: dict[tuple[str, str], list[str]] = {}
    kinds = {**aside, **{name: OTHER if shapes[name] else NUMBER for name in left}}
    for name, kind in kinds.items():
        parts = parts_of(name)
        depth = next((d for d in range(1, len(parts)) if parts[:d] not in inner), len(parts))
        path = kind if kind in (COUNTER, NUMBER) else _first_parts(name, depth)
        found.setdefault((path, kind), []).append(name)
    return [Group(path, kind, names) for (path, kind), names in found.items()]


def _first_parts(name: str, depth: int) -> str:
    """So much of a name, as the file has it, as holds this many of its parts."""
    ends = [match.start() for match in re.finditer(r"[./]", name)] + [len(name)]
    return next((name[:end] for end in ends if len(parts_of(name[:end])) >= depth), name)
