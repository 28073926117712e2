"""Canonical weights: one flat dict of NumPy arrays, `layer.leaf` -> array in PyTorch's layout.

A file of them is a safetensors file whose metadata holds the spec; it loads straight into
`resnet_torch` with `load_state_dict`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from shared.architecture.ops import Shape
from shared.architecture.plan import Plan, make_plan
from shared.architecture.spec import ResNetSpec
from shared.errors import CheckpointError, with_hints
from shared.weights.digests import sha256_of
from shared.weights.dtypes import float_dtype, is_float
from shared.weights.files import read_tensors, write_tensors

Weights = dict[str, np.ndarray]

FORMAT = "resnet-rosetta-weights"
# Kinds of problems with values.
NOT_FINITE, NEGATIVE, ZERO = "not finite", "negative", "zero"

# Layouts of convolution kernels: canonical is PyTorch's OIHW, Keras and Flax store HWIO. Grouped
# convolutions follow the same rule: [out, in / groups, h, w] <-> [h, w, in / groups, out].
OIHW_TO_HWIO = (2, 3, 1, 0)
HWIO_TO_OIHW = (3, 2, 0, 1)
TILE = 64  # channels a side, of what is copied from one layout into the other at a time


def to_channels_last(name: str, array: np.ndarray) -> np.ndarray:
    """A canonical tensor as Keras and Flax store it: kernels HWIO, linear weights [in, out]."""
    if array.ndim == 4:
        return array.transpose(OIHW_TO_HWIO)
    return array.T if array.ndim == 2 else array


def canonical_shape(shape: Shape) -> Shape:
    """The shape of the canonical tensor that Keras and Flax store with this one."""
    return tuple(shape[i] for i in HWIO_TO_OIHW) if len(shape) == 4 else shape[::-1]


def from_channels_last(name: str, array: np.ndarray) -> np.ndarray:
    """The canonical tensor of what Keras or Flax stores, as a copy; the inverse of
    `to_channels_last`.
    """
    if array.ndim == 4:
        return transposed(array, HWIO_TO_OIHW)
    return transposed(array, (1, 0)) if array.ndim == 2 else np.array(array, order="C")


def transposed(array: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """A copy of `array.transpose(axes)`, two axes or more, in row-major order.

    It is made tile by tile, which is faster for a large kernel: row by row, what a processor's
    cache line holds beside a value is gone when it is needed, because values that follow each
    other lie so far apart.
    """
    turned = array.transpose(axes)
    rows, columns = sorted(range(turned.ndim), key=turned.shape.__getitem__)[-2:]
    if turned.shape[rows] < 2 * TILE:
        return np.array(turned, order="C")
    copy = np.empty(turned.shape, turned.dtype)
    place = [slice(None)] * turned.ndim
    for i in range(0, turned.shape[rows], TILE):
        for j in range(0, turned.shape[columns], TILE):
            place[rows], place[columns] = slice(i, i + TILE), slice(j, j + TILE)
            copy[tuple(place)] = turned[tuple(place)].copy(order="K")
    return copy


def _shape_problems(
    expected: Mapping[str, Shape], found: Mapping[str, Shape]
) -> dict[str, list[str]]:
    """Every missing, extra and mis-shaped tensor, by kind."""
    missing = [
        f"missing {name} {list(shape)}" for name, shape in expected.items() if name not in found
    ]
    unexpected = with_hints(set(found) - set(expected), expected)
    extra = [f"unexpected {name}" for name in unexpected]
    misshaped = [
        f"{name} has shape {list(found[name])}, expected {list(shape)}"
        for name, shape in expected.items()
        if name in found and tuple(found[name]) != tuple(shape)
    ]
    return {"missing": missing, "unexpected": extra, "of another shape": misshaped}


def check_weights(plan: Plan, weights: Mapping[str, Any], what: str = "weights") -> None:
    """Raise `CheckpointError` unless `weights` are exactly the plan's tensors, all finite floats.

    All problems are reported at once. Running variances must not be negative.

    >>> from shared import get_spec, probe_weights
    >>> spec = get_spec("cifar/resnet20")
    >>> check_weights(make_plan(spec), probe_weights(spec))
    """
    shapes = {name: np.shape(array) for name, array in weights.items()}
    bad_dtype: list[str] = []
    values: dict[str, list[str]] = {NOT_FINITE: [], NEGATIVE: [], ZERO: []}
    for name in (name for name, shape in plan.tensors.items() if shapes.get(name) == shape):
        array = np.asarray(weights[name])
        if not is_float(array.dtype):
            bad_dtype.append(f"{name} is {array.dtype}, expected a float type")
        elif problem := value_problem(name, array, plan.spec.norm.eps):
            values[problem[0]].append(f"{name} {problem[1]}")
    problems = _shape_problems(plan.tensors, shapes) | {"not float": bad_dtype} | values
    raise_problems(what, problems)


def value_problem(name: str, array: np.ndarray, eps: float) -> tuple[str, str] | None:
    """(kind, what) if a tensor's values cannot be weights: not finite, variances below zero, or
    variances of zero where the norms' `eps` is 0, too: their outputs would not be finite.
    """
    if not (finite := np.isfinite(array)).all():
        return NOT_FINITE, f"has {int((~finite).sum())} values that are not finite"
    if name.endswith("running_var") and (negative := array < 0).any():
        return NEGATIVE, f"has {int(negative.sum())} negative variances"
    if eps == 0 and name.endswith("running_var") and (zero := array == 0).any():
        return ZERO, f"has {int(zero.sum())} variances of 0 while norm.eps is 0; set norm.eps"
    return None


def cast_exactly(weights: Mapping[str, np.ndarray], dtype: Any) -> Weights:
    """The weights in `dtype`, as contiguous arrays; `CheckpointError` if a single value would
    change.

    Loading never rounds in silence: whoever wants float64 weights in a float32 model rounds them
    first.
    """
    target, cast, changed = float_dtype(dtype), {}, []
    for name, array in weights.items():
        array = np.asarray(array)
        cast[name] = np.ascontiguousarray(array.astype(target, copy=False))
        if array.dtype != target and not np.array_equal(cast[name].astype(array.dtype), array):
            changed.append(f"{name} ({array.dtype}) is not exact in {target}")
    raise_problems("weights", {"not exact; round them first with weights[name].astype": changed})
    return cast


def save_weights(
    path: str | Path,
    weights: Mapping[str, np.ndarray],
    spec: ResNetSpec,
    about: Mapping[str, str] | None = None,
) -> None:
    """Write a canonical file, atomically: the spec and each tensor's SHA-256 are in its metadata,
    and `about`.

    >>> from shared import get_spec, initial_weights
    >>> spec = get_spec("cifar/resnet20")
    >>> save_weights("resnet20.safetensors", initial_weights(spec, seed=1), spec)
    >>> weights, same = read_weights("resnet20.safetensors")
    >>> same == spec, weights["head.weight"].shape
    (True, (10, 64))

    Raises `CheckpointError` if the weights are not the spec's, or the file cannot be written.
    """
    plan = make_plan(spec)
    check_weights(plan, weights)
    ordered = {name: np.ascontiguousarray(weights[name]) for name in plan.tensors}
    digests = {name: sha256_of(array) for name, array in ordered.items()}
    metadata = {"format": FORMAT, "spec": spec.to_json(), "sha256": json.dumps(digests)}
    write_tensors(path, ordered, {**(about or {}), **metadata})


def read_weights(path: str | Path, spec: ResNetSpec | None = None) -> tuple[Weights, ResNetSpec]:
    """The weights of a canonical file and their spec; `save_weights` writes one.

    Given a `spec`, the file must hold exactly its tensors. Raises `CheckpointError` for a file that
    is missing, truncated, no safetensors, of another network, or whose contents do not match its
    hashes.
    """
    weights, metadata = read_tensors(path)
    if spec is None:
        if metadata.get("format") != FORMAT or "spec" not in metadata:
            raise CheckpointError(
                f"{path}: no {FORMAT} metadata in this safetensors file, so its spec is unknown; "
                "name the preset"
            )
        try:
            spec = ResNetSpec.from_json(metadata["spec"])
        except ValueError as error:
            raise CheckpointError(f"{path}: the spec in its metadata is invalid: {error}") from None
    check_weights(make_plan(spec), weights, f"{path} for {spec.name}")
    if "sha256" in metadata:
        _check_digests(path, weights, metadata["sha256"])
    return weights, spec


def _check_digests(path: str | Path, weights: Weights, text: str) -> None:
    try:
        digests = json.loads(text)
        damaged = [name for name, array in weights.items() if sha256_of(array) != digests[name]]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path}: its table of SHA-256 digests is invalid ({error})"
        ) from None
    problems = [f"{name} does not match its SHA-256" for name in damaged]
    raise_problems(str(path), {"damaged": problems})


def raise_problems(what: str, kinds: Mapping[str, list[str]]) -> None:
    """One line that counts each kind of problem and shows the first ones; all are in
    `.problems`.
    """
    parts = []
    for kind, problems in kinds.items():
        if problems:
            shown = "; ".join(sorted(problems)[:5]) + ("; …" if len(problems) > 5 else "")
            parts.append(f"{len(problems)} {kind}: {shown}")
    if parts:
        everything = sorted(p for problems in kinds.values() for p in problems)
        raise CheckpointError(f"{what}: {' | '.join(parts)}", everything)
